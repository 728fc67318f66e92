"""Reads the state dictionary of a .pth file in torch's older format, without torch.

Such a file is five pickles and then raw memory:

    magic number, protocol version, system information, the object, the list of storage keys
    for every key in that order: u64 element count (little-endian), the elements

Inside the object a tensor is `_rebuild_tensor_v2(storage, offset, size, stride, ...)` and a storage
is a persistent id ("storage", type, key, device, element count). A pickle can name any function of
any module; the reader below knows the five names a state dictionary needs and refuses the rest, so
a hostile file can fail but not run anything.
"""
import collections
import pickle
import struct

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
STORAGE_TYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
}


class PthError(Exception):
    """The file is not a state dictionary in the older torch format."""


class _Storage:
    def __init__(self, dtype, count):
        self.dtype = np.dtype(dtype)
        self.count = count
        self.data = None


class _Tensor:
    """A view that waits for its storage, which comes later in the file."""

    def __init__(self, storage, offset, size, stride):
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def array(self):
        data = self.storage.data
        if data is None:
            raise PthError("a tensor's storage is missing from the file")
        if len(self.size) != len(self.stride) or min((self.offset, *self.size, *self.stride)) < 0:
            raise PthError(f"a tensor has size {self.size} and stride {self.stride}")
        last = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride))
        if 0 not in self.size and last >= data.size:
            raise PthError(f"a tensor of size {self.size} reaches beyond its storage")
        item = data.itemsize
        view = np.lib.stride_tricks.as_strided(
            data[self.offset:], self.size, [s * item for s in self.stride], writeable=False)
        return np.array(view, order="C")


class _Unpickler(pickle.Unpickler):
    def __init__(self, file, storages):
        super().__init__(file, encoding="utf-8")
        self.storages = storages

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: _Tensor(storage, offset, size, stride)
        if module == "torch" and name in STORAGE_TYPES:
            return STORAGE_TYPES[name]
        raise PthError(f"the pickle asks for {module}.{name}, which no state dictionary needs")

    def persistent_load(self, pid):
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise PthError(f"unknown persistent id {pid!r}")
        _, dtype, key, _, count = pid[:5]
        if dtype not in STORAGE_TYPES.values() or not isinstance(count, int) or count < 0:
            raise PthError(f"storage {key!r} has type {dtype!r} and {count!r} elements")
        return self.storages.setdefault(key, _Storage(dtype, count))


def _read_storage(file, key, storage):
    head = file.read(8)
    if len(head) != 8 or struct.unpack("<Q", head)[0] != storage.count:
        raise PthError(f"storage {key!r} does not hold the announced {storage.count} elements")
    size = storage.count * storage.dtype.itemsize
    data = file.read(size)
    if len(data) != size:
        raise PthError(f"the file ends inside storage {key!r}")
    storage.data = np.frombuffer(data, storage.dtype)


def load(path):
    """The state dictionary of `path` as {name: numpy array}. PthError if it is anything else."""
    storages = {}
    with open(path, "rb") as file:
        try:
            if _Unpickler(file, {}).load() != MAGIC or _Unpickler(file, {}).load() != PROTOCOL:
                raise PthError(f"{path}: not in torch's older format (wrong magic or version)")
            system = _Unpickler(file, {}).load()
            if not isinstance(system, dict) or system.get("little_endian") is not True:
                raise PthError(f"{path}: written on a big-endian machine")
            state = _Unpickler(file, storages).load()
            keys = _Unpickler(file, {}).load()
        except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, TypeError,
                AttributeError) as error:
            raise PthError(f"{path}: broken pickle ({error})") from error
        for key in keys if isinstance(keys, list) else ():
            if key not in storages:
                raise PthError(f"{path}: storage {key!r} belongs to no tensor")
            _read_storage(file, key, storages[key])
    if not isinstance(state, dict):
        raise PthError(f"{path}: holds a {type(state).__name__}, not a state dictionary")
    return {name: value.array() for name, value in state.items() if isinstance(value, _Tensor)}
