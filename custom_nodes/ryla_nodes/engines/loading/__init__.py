"""Weights from files to a device, as fast as the disk and the bus allow."""
