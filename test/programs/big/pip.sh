# timeout: 120
# checkpoint: yes
# A wheel is built and installed into a virtual environment, from a local file; a package with a C library beside it.
mkdir -p src/greet && cd src
cat >setup.py <<'P'
from setuptools import setup
setup(name="greet", version="1.2", packages=["greet"], entry_points={"console_scripts": ["greet=greet:main"]})
P
printf 'import sys\ndef main():\n    print("greetings", *sys.argv[1:])\n' >greet/__init__.py
python3 setup.py -q bdist_wheel 2>/dev/null; ls dist; cd ..
python3 -m venv v || exit 1
v/bin/pip install --no-index --disable-pip-version-check src/dist/*.whl 2>&1 | grep -v WARNING | tail -1
v/bin/greet you; v/bin/pip list --disable-pip-version-check 2>/dev/null | grep greet; v/bin/pip show -f greet 2>/dev/null | grep -A9 Files | sort
v/bin/pip uninstall -y greet 2>&1 | tail -1; v/bin/greet 2>&1 | sed 's/.*: //'
