"""External repositories made of what the machine's package manager installed.

system_packages() turns pkg-config modules into cc_library targets that link
the modules' static archives. It reads the .pc files itself: one Bazel target
per module, with the module's requirements as its dependencies, so that every
archive is linked once and after everything that needs it.
"""

_STATIC_SYSTEM_LIBS = ["atomic", "dl", "m", "pthread", "rt"]

def _search_dirs(ctx):
    exe = ctx.which("pkg-config")
    if not exe:
        fail("pkg-config is missing: run ./setup.sh")
    result = ctx.execute([exe, "--variable", "pc_path", "pkg-config"])
    if result.return_code:
        fail("pkg-config: " + result.stderr)
    extra = ctx.os.environ.get("PKG_CONFIG_PATH", "")
    return [d for d in (extra + ":" + result.stdout.strip()).split(":") if d]

def _expand(text, variables):
    # A variable may name another one; definitions are few levels deep.
    for _ in range(8):
        if "${" not in text:
            break
        for name, value in variables.items():
            text = text.replace("${" + name + "}", value)
    return text

def _read_module(ctx, module, dirs):
    """Returns the fields of MODULE.pc, with their variables expanded."""
    found = [d for d in dirs if ctx.path(d + "/" + module + ".pc").exists]
    if not found:
        fail("no %s.pc in %s: run ./setup.sh" % (module, ", ".join(dirs)))
    path = ctx.path(found[0] + "/" + module + ".pc")
    variables = {"pcfiledir": found[0]}
    fields = {}
    for line in ctx.read(path).replace("\\\n", " ").splitlines():
        line = line.split("#")[0].strip()
        eq = line.find("=")
        colon = line.find(":")
        if eq > 0 and (colon < 0 or eq < colon):
            variables[line[:eq].strip()] = _expand(line[eq + 1:].strip(), variables)
        elif colon > 0:
            fields[line[:colon].strip()] = _expand(line[colon + 1:].strip(), variables)
    return fields

def _required(fields):
    """Names in Requires and Requires.private, without version conditions."""
    names = []
    for key in ["Requires", "Requires.private"]:
        skip = False
        for word in fields.get(key, "").replace(",", " ").split(" "):
            if word in ["=", "<", ">", "<=", ">=", "!="]:
                skip = True  # the next word is a version
            elif word and skip:
                skip = False
            elif word and word not in names:
                names.append(word)
    return names

def _find_archive(ctx, lib, dirs):
    for d in dirs:
        path = ctx.path("%s/lib%s.a" % (d, lib))
        if path.exists:
            return path
    return None

def _system_packages_impl(ctx):
    dirs = _search_dirs(ctx)
    default_lib_dirs = [d[:-len("/pkgconfig")] for d in dirs if d.endswith("/pkgconfig")]
    loaded = {}
    targets = ["package(default_visibility = [\"//visibility:public\"])"]
    todo = list(ctx.attr.modules)

    # Starlark has no unbounded loop; no machine has this many modules.
    for _ in range(100000):
        if not todo:
            break
        module = todo.pop()
        if module in loaded:
            continue
        fields = _read_module(ctx, module, dirs)
        loaded[module] = True
        deps = _required(fields)
        todo += deps

        archives, linkopts, includes, lib_dirs = [], [], [], []
        words = (fields.get("Libs", "") + " " + fields.get("Libs.private", "")).split(" ")
        for word in words:
            if word.startswith("-L"):
                lib_dirs.append(word[2:])
        for word in words:
            if word == "-pthread":
                linkopts.append(word)
            elif word.startswith("-l") and word[2:] in _STATIC_SYSTEM_LIBS:
                linkopts.append(word)
            elif word.startswith("-l"):
                archive = _find_archive(ctx, word[2:], lib_dirs + default_lib_dirs)
                if not archive:
                    # Only a shared library: good for tests, not for //:sandbox.
                    linkopts.append(word)
                    continue
                local = "lib/lib%s.a" % word[2:]
                if local not in loaded:
                    ctx.symlink(archive, local)
                    loaded[local] = True
                archives.append(local)
        for word in fields.get("Cflags", "").split(" "):
            if word.startswith("-I") and word not in ["-I/usr/include", "-I/usr/local/include"]:
                local = "include/" + word[2:].replace("/", "_")
                if local not in loaded:
                    ctx.symlink(word[2:], local)
                    loaded[local] = True
                includes.append(local)
        targets.append(
            ("cc_library(name = %r, srcs = %r, hdrs = glob(%r), includes = %r, " +
             "linkopts = %r, linkstatic = True, deps = %r)") % (
                module,
                archives,
                [i + "/**/*.h" for i in includes],
                includes,
                linkopts,
                [":" + d for d in deps] + ctx.attr.extra_deps.get(module, []),
            ),
        )

    for tool in ctx.attr.tools:
        exe = ctx.which(tool)
        if not exe:
            fail("%s is missing: run ./setup.sh" % tool)
        ctx.symlink(exe, "bin/" + tool)
    targets.append("exports_files(glob([\"bin/*\"]))")
    ctx.file("BUILD.bazel", "\n".join(targets) + "\n")

system_packages = repository_rule(
    implementation = _system_packages_impl,
    attrs = {
        "extra_deps": attr.string_list_dict(),
        "modules": attr.string_list(),
        "tools": attr.string_list(),
    },
    environ = ["PATH", "PKG_CONFIG_PATH"],
    local = True,
)
