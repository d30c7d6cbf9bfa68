#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Language runtimes under continuous eviction: Node, Java and Go programs write
# what they write without the shim, and CPython's own tests of threads, mmap,
# garbage collection, subprocesses, multiprocessing and asyncio pass: some of them,
# or all (it takes an hour) if SOAK_SECONDS is set.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

# compare NAME SECONDS COMMAND...: the same output with the shim and without
compare() {
	local name=$1 limit=$2 status=0

	shift 2
	bounded "$limit" "$@" >"$DIR/$name.plain" 2>"$DIR/$name.err" || status=$?
	[ $status -eq 0 ] || fail "$name, plain: status $status: $(tail -n 20 "$DIR/$name.err")"
	evicted_command "$limit" "$@" >"$DIR/$name.shimmed" 2>"$DIR/$name.err" || status=$?
	[ $status -eq 0 ] || fail "$name: status $status: $(tail -n 20 "$DIR/$name.err")"
	cmp "$DIR/$name.plain" "$DIR/$name.shimmed" >&2 || fail "$name: the output differs"
	say "$name: the same $(wc -c <"$DIR/$name.plain") bytes; $(tail -n 1 "$DIR/$name.err")"
}

write_node() {
	cat <<-'END'
		const { Worker, isMainThread, parentPort, workerData } = require("worker_threads");
		const crypto = require("crypto");
		const digest = (v) => crypto.createHash("sha256").update(JSON.stringify(v)).digest("hex");
		function records(seed, n) {
		    const list = [];
		    let x = seed >>> 0;
		    for (let i = 0; i < n; i++) {
		        x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
		        list.push({ id: i, key: x.toString(16), tags: [x & 15, (x >> 8) & 15], f: x / 7 });
		    }
		    return list;
		}
		if (!isMainThread) {
		    parentPort.postMessage(digest(records(workerData, 3000)));
		    return;
		}
		(async () => {
		    const kept = new Map();
		    for (let i = 0; i < 10; i++) kept.set(i, records(i + 1, 3000));
		    const before = [...kept].map(([k, v]) => [k, digest(v)]);
		    await new Promise((r) => setTimeout(r, 600));
		    const after = [...kept].map(([k, v]) => [k, digest(v)]);
		    console.log(JSON.stringify(before) === JSON.stringify(after), after);
		    for (let round = 0; round < 3; round++) {
		        kept.delete(round);
		        let waste = [];
		        for (let i = 0; i < 30; i++) waste.push(Buffer.alloc(200000, i));
		        console.log(digest(waste.map((b) => b[b.length - 1])));
		        waste = null;
		        await new Promise((r) => setTimeout(r, 200));
		    }
		    console.log(digest([...kept]));
		    const answers = await Promise.all([11, 12, 13].map((seed) => new Promise((ok, no) => {
		        const w = new Worker(__filename, { workerData: seed });
		        w.on("message", ok);
		        w.on("error", no);
		    })));
		    console.log(answers);
		    console.log(require("child_process").execSync("echo out of a child").toString());
		})();
	END
}

# Executed as source: no compiler but the runtime's own.
write_java() {
	cat <<-'END'
		import java.util.*;
		import java.util.concurrent.*;
		import java.util.stream.*;

		class Work {
		    static long digest(Collection<String> all) {
		        long h = 17;
		        for (String s : all) h = h * 1000003 + s.hashCode();
		        return h;
		    }
		    static List<String> records(long seed, int n) {
		        Random r = new Random(seed);
		        return IntStream.range(0, n).mapToObj(i -> i + ":" + Long.toHexString(r.nextLong())).collect(Collectors.toList());
		    }
		    public static void main(String[] args) throws Exception {
		        Map<Long, List<String>> kept = new TreeMap<>();
		        for (long i = 0; i < 10; i++) kept.put(i, records(i, 4000));
		        List<Long> before = kept.values().stream().map(Work::digest).collect(Collectors.toList());
		        Thread.sleep(600);
		        for (int round = 0; round < 3; round++) {
		            byte[][] waste = new byte[40][];
		            for (int i = 0; i < waste.length; i++) { waste[i] = new byte[200000]; Arrays.fill(waste[i], (byte) i); }
		            System.gc();
		            Thread.sleep(200);
		            for (int i = 0; i < waste.length; i++) if (waste[i][199999] != (byte) i) throw new Exception("waste " + i);
		        }
		        ExecutorService pool = Executors.newFixedThreadPool(4);
		        List<Future<Long>> found = new ArrayList<>();
		        for (List<String> list : kept.values()) found.add(pool.submit(() -> digest(list)));
		        List<Long> after = new ArrayList<>();
		        for (Future<Long> f : found) after.add(f.get());
		        pool.shutdown();
		        System.out.println(before.equals(after) + " " + after);
		        Process p = new ProcessBuilder("echo", "out of a child").start();
		        System.out.println(new String(p.getInputStream().readAllBytes()) + p.waitFor());
		    }
		}
	END
}

# Programs with C in them have a dynamic loader, and take part.
write_go() {
	cat <<-'END'
		package main

		// #include <stdlib.h>
		// #include <string.h>
		import "C"

		import (
			"crypto/sha256"
			"fmt"
			"os/exec"
			"runtime"
			"sync"
			"time"
			"unsafe"
		)

		func records(seed uint32, n int) []string {
			list := make([]string, 0, n)
			for i := 0; i < n; i++ {
				seed = seed*1664525 + 1013904223
				list = append(list, fmt.Sprintf("%d:%x", i, seed))
			}
			return list
		}

		func digest(list []string) string {
			h := sha256.New()
			for _, s := range list {
				h.Write([]byte(s))
			}
			return fmt.Sprintf("%x", h.Sum(nil))
		}

		func main() {
			const bytes = 4 << 20
			var before [20]string
			var same [20]bool
			var all sync.WaitGroup
			kept := map[int][]string{}
			of_c := C.malloc(bytes)
			C.memset(of_c, 7, bytes)
			for i := range before {
				kept[i] = records(uint32(i), 20000)
				before[i] = digest(kept[i])
			}
			time.Sleep(800 * time.Millisecond)
			for i := range before {
				all.Add(1)
				go func(i int) { defer all.Done(); same[i] = digest(kept[i]) == before[i] }(i)
			}
			all.Wait()
			for round := 0; round < 4; round++ {
				waste := make([][]byte, 50)
				for i := range waste {
					waste[i] = make([]byte, 200000)
					for j := range waste[i] {
						waste[i][j] = byte(i)
					}
				}
				delete(kept, round)
				runtime.GC()
				time.Sleep(200 * time.Millisecond)
				for i := range waste {
					if waste[i][199999] != byte(i) || waste[i][0] != byte(i) {
						panic("waste")
					}
				}
			}
			sum := 0
			for _, b := range unsafe.Slice((*byte)(of_c), bytes) {
				sum += int(b)
			}
			for i := 4; i < 20; i++ {
				fmt.Println(i, same[i], digest(kept[i]))
			}
			out, err := exec.Command("echo", "out of a child").Output()
			fmt.Println(sum, string(out), err)
		}
	END
}

go_program() {
	mkdir -p "$DIR/go"
	write_go >"$DIR/go/work.go"
	if ! GOCACHE=$DIR/go/cache CGO_ENABLED=1 go build -o "$DIR/go/work" "$DIR/go/work.go" 2>"$DIR/go.err"; then
		say "no Go program can be built here: $(head -n 1 "$DIR/go.err")"
		return
	fi
	compare go 60 "$DIR/go/work"
}

# python_tests PART SECONDS MODULE [ARG...]
python_tests() {
	local name=$1 limit=$2 status=0

	shift 2
	part "$name" || return 0
	evicted_command "$limit" env --default-signal=INT,QUIT /usr/bin/python3 -m test "$@" \
		>"$DIR/python.log" 2>"$DIR/python.err" || status=$?
	[ $status -eq 0 ] ||
		fail "python3 -m test $*: status $status: $(grep -E '^(FAIL|ERROR)|Error' "$DIR/python.log" | head -n 10; tail -n 15 "$DIR/python.log")"
	say "python3 -m test $1 ($name): passed; $(tail -n 1 "$DIR/python.err")"
}

# Tests of how long something takes are left out.
never=(-i '*timeout*' -i '*timing*' -i '*TestWait.*' -i '*timer*' -i '*timed*')

# Some of each: what makes processes, shares memory, waits for sockets.
python_some() {
	python_tests mmap 240 test_mmap
	python_tests gc 240 test_gc -m '*.GCTests.test_[a-f]*' -m GCCallbackTests
	python_tests thread 240 test_thread "${never[@]}"
	python_tests threading 240 test_threading "${never[@]}" -m '*.ThreadTests.test_[a-j]*' \
		-m '*.ThreadJoinOnShutdown.test_[1-4]*' -i test_enumerate_after_join -i '*crash*'
	python_tests subprocess 240 test_subprocess "${never[@]}" -m '*.POSIXProcessTestCase.test_[e-k]*'
	python_tests multiprocessing 240 test_multiprocessing_fork "${never[@]}" -m '*.WithProcessesTestPool.test_[a-i]*' \
		-m '*.WithProcessesTestArray.*'
	python_tests asyncio 240 test_asyncio "${never[@]}" -m 'test.test_asyncio.test_[q-r]*' \
		-m '*.SubprocessThreadedWatcherTests.test_[a-c]*'
}

# All of each, in pieces.
python_all() {
	local name method module

	python_tests mmap 900 test_mmap
	python_tests gc 900 test_gc
	python_tests thread 900 test_thread
	python_tests threading 900 test_threading "${never[@]}" -i test_enumerate_after_join -i '*crash*'
	python_tests subprocess 900 test_subprocess "${never[@]}"
	for method in fork forkserver spawn; do
		module=test_multiprocessing_$method
		for name in Processes Threads Manager; do
			python_tests "$method-$name" 1800 $module "${never[@]}" -m "*.With$name*"
		done
		python_tests "$method-others" 1800 $module "${never[@]}" -i '*.With*'
	done
	for name in '[a-f]' '[l-r]' 'se' 's[o-s]' 'st' 'su' '[t-w]'; do
		python_tests "asyncio-$name" 1800 test_asyncio "${never[@]}" -m "test.test_asyncio.test_$name*"
	done
}

python_suite() {
	if ! /usr/bin/python3 -c 'import test.test_mmap' 2>/dev/null; then
		absent "CPython's tests are not here"
		return
	fi
	mkdir -p "$DIR/home"
	export HOME=$DIR/home PYTHONDONTWRITEBYTECODE=1
	cd "$DIR/home"
	if [ -n "${SOAK_SECONDS:-}" ]; then
		python_all
	else
		python_some
	fi
	cd - >/dev/null
}

live_begin
at_leisure
agent_start
if [ -z "$(type -P node)" ]; then
	absent "no node here"
elif part node; then
	write_node >"$DIR/work.js"
	compare node 60 node "$DIR/work.js"
fi
if [ -z "$(type -P java)" ]; then
	absent "no java here"
elif part java; then
	write_java >"$DIR/Work.java"
	compare java 120 java -Xmx64m -XX:TieredStopAtLevel=1 "$DIR/Work.java"
	[ -z "${SOAK_SECONDS:-}" ] ||
		compare java-parallel 120 java -Xmx64m -XX:TieredStopAtLevel=1 -XX:+UseParallelGC -XX:+AlwaysPreTouch "$DIR/Work.java"
fi
# Go is too big to be installed for this
if [ -n "${SOAK_SECONDS:-}" ] && [ -n "$(type -P go)" ] && part go; then
	go_program
fi
python_suite
live_end
