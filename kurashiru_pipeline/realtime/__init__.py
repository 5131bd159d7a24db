"""Code location 1: from landed files to DynamoDB in seconds. Imports stay lean: every run pays them."""
