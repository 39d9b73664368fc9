"""From arrays in host memory to tensors on the device: pinned memory, the type on the wire, copies ahead of the loop."""

from .tensors import Form, TensorBatch, as_tensor, pinned_empty
from .transfer import Arrival, CudaTransfer, DirectTransfer, Prefetcher, Transfer, resolved, transfer_to
from .wire import Wire, packed, unpacked

__all__ = [
    "Arrival",
    "CudaTransfer",
    "DirectTransfer",
    "Form",
    "Prefetcher",
    "TensorBatch",
    "Transfer",
    "Wire",
    "as_tensor",
    "packed",
    "pinned_empty",
    "resolved",
    "transfer_to",
    "unpacked",
]
