#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What libuswap.so asks of others and shows to them: nothing but two weak
# symbols. It lives in any program, and its mover runs without a C library.
# usage: test_shim_symbols.sh [libuswap.so]
set -u
lib=${1:-${USWAP_LIB:-${top_builddir:-.}/preload/libuswap.so}}
failed=0

skip() {
	echo "SKIP: $*"
	exit 77
}

check() { # WHAT, and what should have been empty
	if [ -z "$2" ]; then
		echo "ok: $1"
	else
		printf 'FAILED: %s:\n%s\n' "$1" "$2"
		failed=1
	fi
}

export LC_ALL=C
command -v nm >/dev/null || skip "nm is not installed"
command -v readelf >/dev/null || skip "readelf is not installed"
[ -e "$lib" ] || skip "$lib is not built"

dynamic=$(readelf -dW "$lib")
sections=$(readelf -SW "$lib")
segments=$(readelf -lW "$lib")
relocations=$(readelf -rW "$lib")
asked=$(nm -D --undefined-only "$lib")

echo "undefined symbols:"
echo "$asked"
echo "relocations:"
grep R_ <<<"$relocations"

check "nothing is exported" "$(nm -D --defined-only "$lib")"
check "only the fork handlers are asked for, weakly" \
	"$(grep -vE '^ +w (__register_atfork|pthread_atfork)$' <<<"$asked")"
check "no library is needed" "$(grep -E 'NEEDED|RPATH|RUNPATH' <<<"$dynamic")"
check "no thread-local storage" \
	"$(grep -E '\.t(data|bss)' <<<"$sections"; grep -w TLS <<<"$segments"; grep -E 'TPOFF|DTPMOD|TLSDESC' <<<"$relocations")"
check "no IFUNC" "$(grep IRELATIV <<<"$relocations"; readelf -sW "$lib" | grep -w IFUNC)"
check "no PLT, nothing bound lazily" \
	"$(grep -E 'JUMP_SLO|COPY' <<<"$relocations"; grep -E '\(JMPREL\)|\(TEXTREL\)' <<<"$dynamic")"
check "relocations are relative, but for the two" \
	"$(grep R_ <<<"$relocations" | grep -vE '_RELATIVE|GLOB_DAT .* (__register_atfork|pthread_atfork) ')"
check "one constructor, one destructor and no other start or end code" \
	"$(grep -E '\((INIT|FINI|PREINIT_ARRAY)\)' <<<"$dynamic"
	grep -qE '\(INIT_ARRAYSZ\) +8 ' <<<"$dynamic" || echo "INIT_ARRAY is not one pointer"
	grep -qE '\(FINI_ARRAYSZ\) +8 ' <<<"$dynamic" || echo "FINI_ARRAY is not one pointer"
	grep -E ' \.(ctors|dtors|preinit_array) ' <<<"$sections")"
check "stays loaded, bound at once" \
	"$(grep -q NODELETE <<<"$dynamic" || echo no NODELETE; grep -qw NOW <<<"$dynamic" || echo no NOW)"
check "no executable stack" \
	"$(grep -q GNU_STACK <<<"$segments" || echo no GNU_STACK; grep GNU_STACK <<<"$segments" | grep RWE)"
check "no stack protector, sanitizer or coverage" \
	"$(nm "$lib" | grep -E '__stack_chk|__asan|__ubsan|__tsan|__gcov|__llvm_prof')"
if command -v objdump >/dev/null; then
	check "no use of the thread pointer" \
		"$(objdump -d --no-show-raw-insn "$lib" | grep -E '%fs:|%gs:|tpidr')"
fi
exit $failed
