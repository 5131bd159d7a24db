-- What the AWS stack has to trust in its second pass (deploy/aws), asked after the bootstrap; changes nothing.
-- STORAGE_AWS_IAM_USER_ARN of the first, API_AWS_IAM_USER_ARN and API_AWS_EXTERNAL_ID of the second, and the principal in
-- the third, who subscribes Snowpipe's queue to the topic of landed files.
describe integration {{ storage_integration }};
describe integration {{ api_integration }};
select system$get_aws_sns_iam_policy('{{ topic_arn }}') as policy;
