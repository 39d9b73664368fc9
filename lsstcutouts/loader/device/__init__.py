"""From arrays in host memory to tensors on the device: pinned memory, the type on the wire, copies ahead of the loop."""
