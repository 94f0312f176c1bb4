"""A family of guest tests: one small program."""

load("//tools:static.bzl", "static_binary")

_COPTS = [
    "-fno-exceptions",
    "-fno-rtti",
    # Tests pass odd arguments on purpose; the C library's own checks must not step in.
    "-U_FORTIFY_SOURCE",
]

def guest_family(name, source, dynamic = False, deps = []):
    """Declares the program of one family.

    Args:
      name: the program's name, that of the source without its ending.
      source: the .cc file.
      deps: what it needs besides the harness.
      dynamic: link against the shared C library instead of statically.
    """
    rule = native.cc_binary if dynamic else static_binary
    rule(
        name = name,
        testonly = True,
        srcs = [source],
        copts = _COPTS,
        deps = ["//test/harness:guest_test"] + deps,
    )
