"""One content-addressed image store for all kinds of instances.

The store is an OCI image layout; what backends need beside it (an unpacked tree, a read-only disk) is made from it
once per image digest and shared. ``store.ImageStore`` is the door; everything else here serves it.
"""
