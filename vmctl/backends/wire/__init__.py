"""The session protocol spoken over a byte stream with whatever owns a workload's processes.

Two peers speak it: the init of an image machine (C, over virtio-serial ports) and the sandbox supervisor (Python,
over a unix socket). The client side is one piece of code for both.
"""
