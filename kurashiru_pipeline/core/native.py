"""Compiled functions: made ahead of time, kept as object code, called without Numba.

Here: how the functions of core/kernels/ are compiled, where the result is kept, and how it is loaded and called.
Not here: these functions; they are plain Python over arrays.

A process that called them by Numba would spend 0.4 s on its import and its registries before the first call. So Numba
only compiles, once for a processor and a version of the source; later processes hand the object code to LLVM: 0.05 s.
"""

import hashlib
import inspect
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from ctypes import CFUNCTYPE, byref, c_double, c_int, c_int64, c_void_p
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import RLock
from types import FunctionType, ModuleType
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast, get_args, get_origin, get_type_hints

import numpy as np

MODULES = ("events", "lists", "profiles", "text", "trees")
"""The modules of core/kernels/. In each, names without an underscore can be called; the others only from there."""

_PACKAGE = "kurashiru_pipeline.core.kernels"
_LOCK = RLock()
_CODES = {np.dtype(name): name for name in ("float64", "float32", "int64", "int32", "uint64", "uint8", "bool")}

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The compiled form of a function of core/kernels/; it runs without the interpreter's lock.

    Its parameters are whole numbers (int), floats, arrays (one-dimensional, or annotated with their dimensions) and
    NamedTuples of these; arrays are contiguous and of the annotated type. It allocates nothing and returns None or
    an int.

    Raises:
        TypeError: an array of the call is not as annotated.
    """
    with _LOCK:
        return cast("Callable[P, R]", _compiled(function))


def prepare() -> dict[str, bool]:
    """Have all modules compiled and kept, so that no process has to wait for it; False for what is there already."""
    return {name: _object_code(import_module(f"{_PACKAGE}.{name}"))[1] for name in MODULES}


@cache
def _compiled(function: Any) -> Callable[..., Any]:
    kinds = get_type_hints(function, include_extras=True)
    result_kind = kinds.pop("return")
    flatten = [_flattener(name, kind) for name, kind in kinds.items()]
    slots = [slot for kind in kinds.values() for slot in _slots(kind)]
    address = _engine(function.__module__).get_function_address(_symbol(function.__name__))
    entry = CFUNCTYPE(c_int, c_void_p, c_void_p, *slots)(address)

    def call(*arguments: Any) -> Any:
        flat: list[Any] = []
        for put, argument in zip(flatten, arguments, strict=True):
            put(argument, flat)
        result, error = c_int64(0), c_void_p()
        if entry(byref(result), byref(error), *flat):
            raise RuntimeError(f"the compiled {function.__name__} failed")
        return result.value if result_kind is int else None

    return call


@cache
def _engine(module: str) -> Any:
    """The loaded object code of a module."""
    llvm: Any = import_module("llvmlite.binding")  # 30 ms, and only where something is ranked

    code, _ = _object_code(sys.modules[module])
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine(llvm))
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


def _machine(llvm: Any) -> Any:
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        codemodel="jitdefault",
        jit=True,
    )


def _object_code(module: ModuleType) -> tuple[bytes, bool]:
    """Object code of a module for this processor, and whether it had to be made."""
    llvm: Any = import_module("llvmlite.binding")

    processor = f"{llvm.get_process_triple()} {llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"
    modules = sorted({function.__module__ for function in _functions(module).values()})
    sources = [
        inspect.getsource(_compile),
        inspect.getsource(_callable_names),
        *(inspect.getsource(sys.modules[name]) for name in modules),
    ]
    made_of = "\n".join([import_module("llvmlite").__version__, sys.version, *sources])
    name = f"{module.__name__.rpartition('.')[2]}-{_digest(processor)}"
    for folder in _folders():
        with suppress(OSError):
            return (folder / f"{name}-{_digest(made_of)}.o").read_bytes(), False
    code = _compile(module)
    _keep(code, name, f"{name}-{_digest(made_of)}.o")
    return code, True


def _folders() -> Iterator[Path]:
    """Where object code is looked for: beside the byte code of Python, or where that is read-only, in the home folder;
    or in the folder that Numba's own variable names."""
    if given := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(given)
        return
    yield Path(__file__).parent / "kernels" / "__pycache__"
    with suppress(RuntimeError):  # nobody's home
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kurashiru_pipeline"


def _keep(code: bytes, name: str, file: str) -> None:
    """Write to the first folder that takes it, in the place of what was made of an older source; nowhere is fine, then
    every process compiles for itself."""
    for folder in _folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle, draft = tempfile.mkstemp(dir=folder)
            with os.fdopen(handle, "wb") as writer:
                writer.write(code)
            Path(draft).chmod(0o644)
            Path(draft).replace(folder / file)
            for older in folder.glob(f"{name}-*.o"):
                if older.name != file:
                    older.unlink(missing_ok=True)
        except OSError:
            continue
        return


def _compile(module: ModuleType) -> bytes:
    """Object code of all functions of a module, by Numba."""
    llvm: Any = import_module("llvmlite.binding")
    compiler: Any = import_module("numba.core.compiler")  # half a second, and only where something has to be compiled
    cpu_target: Any = import_module("numba.core.registry").cpu_target

    names = _callable_names(module)
    flags = compiler.Flags()
    flags.nrt, flags.error_model = False, "numpy"
    flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    whole = llvm.parse_assembly("")
    for name, function in _functions(module).items():
        if name.startswith("_") or function.__module__ != module.__name__:
            continue
        kinds = get_type_hints(function, include_extras=True)
        result = _numba_type(kinds.pop("return"))
        made = compiler.compile_extra(
            cpu_target.typing_context,
            cpu_target.target_context,
            FunctionType(function.__code__, names, name),
            tuple(_numba_type(kind) for kind in kinds.values()),
            result,
            flags,
            {},
        )
        part = llvm.parse_assembly(made.library.get_llvm_str())
        part.get_function(made.fndesc.llvm_func_name).name = _symbol(name)
        whole.link_in(part)
    return cast("bytes", _machine(llvm).emit_object(whole))


def _callable_names(module: ModuleType) -> dict[str, Any]:
    """All names of a module, its functions in a form that compiled ones can call."""
    njit: Any = import_module("numba").njit
    names = dict(vars(module))
    for name, function in _functions(module).items():
        if function.__module__ == module.__name__:
            copy = FunctionType(function.__code__, names, name)
            names[name] = njit(_nrt=False, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(copy)
        else:
            names[name] = _callable_names(sys.modules[function.__module__])[name]
    return names


def _functions(module: ModuleType) -> dict[str, Any]:
    """The functions of a module, and those that it takes from other modules of kernels."""
    return {
        name: function
        for name, function in vars(module).items()
        if isinstance(function, FunctionType) and function.__module__.startswith(_PACKAGE)
    }


def _symbol(name: str) -> str:
    return f"kurashiru_{name}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _array_kind(kind: Any) -> tuple[np.dtype[Any], int] | None:
    """Element type and dimensions of an annotated array, None for other annotations."""
    dimensions = 1
    if hasattr(kind, "__metadata__"):
        (dimensions,) = kind.__metadata__
        kind = kind.__origin__
    if get_origin(kind) is not np.ndarray:
        return None
    (element,) = get_args(get_args(kind)[1])
    return np.dtype(element), dimensions


def _numba_type(kind: Any) -> Any:
    types: Any = import_module("numba").types
    if kind is int:
        return types.int64
    if kind is float:
        return types.float64
    if kind is type(None):
        return types.none
    if array := _array_kind(kind):
        element, dimensions = array
        return types.Array(getattr(types, {"bool": "boolean"}.get(_CODES[element], _CODES[element])), dimensions, "C")
    return types.NamedTuple([_numba_type(field) for field in _fields(kind).values()], kind)


def _fields(kind: type[NamedTuple]) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _slots(kind: Any) -> Iterator[Any]:
    """C types of a parameter, as Numba passes it: of an array its two owners (none), items, bytes an item, address,
    shape and strides."""
    if kind is int:
        yield c_int64
    elif kind is float:
        yield c_double
    elif array := _array_kind(kind):
        yield from (c_void_p, c_void_p, c_int64, c_int64, c_void_p, *[c_int64] * (2 * array[1]))
    else:
        for field in _fields(kind).values():
            yield from _slots(field)


def _flattener(name: str, kind: Any) -> Callable[[Any, list[Any]], None]:
    """What appends the values of `_slots` of an argument to a list."""
    if kind is int or kind is float:

        def put_number(argument: Any, flat: list[Any]) -> None:
            flat.append(kind(argument))

        return put_number
    if array := _array_kind(kind):
        element, dimensions = array

        def put_array(argument: Any, flat: list[Any]) -> None:
            if argument.dtype != element or argument.ndim != dimensions or not argument.flags.c_contiguous:
                message = (
                    f"{name} must be a contiguous {dimensions}-d array of {element}, not {argument.dtype} with shape "
                    f"{argument.shape} and strides {argument.strides}"
                )
                raise TypeError(message)
            size, each, address = argument.size, argument.itemsize, argument.__array_interface__["data"][0]
            flat.extend((None, None, size, each, address, *argument.shape, *argument.strides))

        return put_array
    parts = [_flattener(f"{name}.{field}", part) for field, part in _fields(kind).items()]

    def put_fields(argument: Any, flat: list[Any]) -> None:
        for put, field in zip(parts, argument, strict=True):
            put(field, flat)

    return put_fields
