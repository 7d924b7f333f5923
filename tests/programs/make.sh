#!/usr/bin/env bash
# A program of many C files: built in parallel, built again where something changed, and run.
set -euo pipefail
exec 3>&1 >&2
/usr/bin/python3 -I - <<'PYTHON'
import os
os.makedirs("src")
os.makedirs("include")
FILES = 60
for number in range(FILES):
    with open(f"include/part{number}.h", "w") as file:
        file.write(f"int part{number}(int);\n")
    with open(f"src/part{number}.c", "w") as file:
        file.write(f'#include <stdio.h>\n#include <string.h>\n#include "part{number}.h"\n')
        if number:
            file.write(f'#include "part{number - 1}.h"\n')
        before = f"part{number - 1}(x)" if number else "x"
        file.write(f"int part{number}(int x) {{ return {before} * 31 + {number}; }}\n")
with open("src/main.c", "w") as file:
    file.write(f'#include <stdio.h>\n#include "part{FILES - 1}.h"\n')
    file.write(f'int main(void) {{ printf("%d\\n", part{FILES - 1}(1) & 0xffff); return 0; }}\n')
with open("Makefile", "w") as file:
    file.write(f"""\
PARTS := $(patsubst src/%.c,build/%.o,$(wildcard src/part*.c))
program: build/main.o libparts.a
\tcc -o $@ build/main.o -L. -lparts
libparts.a: $(PARTS)
\trm -f $@
\tar rcs $@ $(sort $(PARTS))
build/%.o: src/%.c | build
\tcc -O1 -fwrapv -MMD -Iinclude -c -o $@ $<
build:
\tmkdir build
-include build/*.d
""")
PYTHON
steps() { make -j4 | tee -a log | grep -c -- "$1" || true; }
{
    echo "compiled $(steps ' -c ')"
    echo "printed $(./program)"
    echo "then compiled $(steps ' -c ')"
    make --question
    # The next second, where a file system counts in seconds.
    sleep 1.1
    touch include/part7.h
    echo "with a changed header $(steps ' -c ')"
    sed -i 's/31/37/' src/part3.c
    echo "with a changed source $(steps ' -c ')"
    echo "printed $(./program)"
} >&3
rm log
