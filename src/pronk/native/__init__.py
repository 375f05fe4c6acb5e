"""The typed, checked Python face of the C++ kernels (module pronk.native._core).

Arrays are C-contiguous and float32 unless said otherwise. A wrong shape, type or layout is our own bug and raises
ValueError or TypeError. Every function releases the GIL while it works.
"""
