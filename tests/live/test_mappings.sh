#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# madvise, mremap, munmap, brk, mprotect, malloc and first touches, on and
# beside pages that have left.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

live_begin
agent_start
evicted_run madvise_verify 2
evicted_run mremap_verify 2
evicted_run munmap_verify 2
evicted_run malloc_verify 2 4
evicted_run zero_touch 4 1
evicted_run madvise_verify --wipe
evicted_run uffd_verify
grep -q '(uffd_verify) is left alone from now on: it uses userfaultfd itself' "$DIR/agent.log" ||
	fail "nothing says why uffd_verify is not served any more"
evicted_run madvise_verify --guard
evicted_run madvise_verify --unheard
# more programs than processors: events of their threads come late and mixed
evicted_crowd "mremap_verify 3" "mremap_verify 3" "mremap_verify 3" "munmap_verify 3"
evicted_crowd "mremap_verify 3" "madvise_verify 3" "fork_verify 3" "threads_verify 3"
live_end
