"""A backend without a machine behind it: for tests, demonstrations and third parties who read a whole backend at once.

It makes all kinds, takes no images (any name will do), moves no packets and confines nothing; but its states, errors,
streams, exit codes and limits are those of the contract, and its clock is the real one. Its bodies outlive the
process: they are kept in ``fake/bodies.json`` below the state directory.

Programs are those of :mod:`vmctl.backends.fake.program`: ``true false echo printf cat sleep exit pwd env hostname``
and ``sh -c`` over them.

Two environment variables make it misbehave, for tests of what calls it; a step is a method's name (``create``,
``start``, ``delete`` ...), and several are separated by commas:

* ``VMCTL_FAKE_FAIL=start:backend-unavailable`` raises the error of that code (``vmctl.errors``) instead of acting;
* ``VMCTL_FAKE_DELAY=create:0.5`` waits that many seconds before it acts.
"""

from vmctl.backends.fake.adapter import FakeBackend, open_backend

__all__ = ["FakeBackend", "open_backend"]
