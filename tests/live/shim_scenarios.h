/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What `shim_peer run` can run; a part of shim_peer.c, for its eyes only. */

/* ---- what the mover looks like ---- */

static unsigned int nr_fds(pid_t pid)
{
	char path[64];
	unsigned int n = 0;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	d = opendir(path);
	if (!d)
		return 0;
	for (struct dirent *e; (e = readdir(d));)
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

/* Soon: it may still be closing some. */
static bool has_fds(pid_t pid, unsigned int n)
{
	for (uint64_t end = now_ms() + 20000; nr_fds(pid) != n && now_ms() < end;)
		turn(-1, 5);
	return nr_fds(pid) == n;
}

static bool has_uffd(pid_t pid)
{
	static const char uffd[] = "anon_inode:[userfaultfd]";
	char path[300], link[64];
	bool found = false;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	d = opendir(path);
	for (struct dirent *e; d && (e = readdir(d));) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%s", pid, e->d_name);
		found |= readlink(path, link, sizeof(link)) == (ssize_t)sizeof(uffd) - 1 &&
			 !memcmp(link, uffd, sizeof(uffd) - 1);
	}
	if (d)
		closedir(d);
	return found;
}

static void read_proc(pid_t pid, const char *what, char *text, size_t size)
{
	char path[64];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, what);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0, "%s", path);
	n = read(fd, text, size - 1);
	text[n > 0 ? n : 0] = 0;
	close(fd);
}

static void test_attach(struct workload *w, struct session *s)
{
	char text[4096], link[64], path[64];
	ssize_t n;

	read_proc(s->mover, "comm", text, sizeof(text));
	CHECK(!strcmp(text, "uswap-mover\n"), "comm %s", text);
	CHECK(has_fds(s->mover, 7), "the mover has %u descriptors", nr_fds(s->mover));
	CHECK(has_fds(s->pid, 3), "the workload has %u descriptors", nr_fds(s->pid));
	CHECK(getsid(s->mover) == s->mover, "session %d", getsid(s->mover));
	snprintf(path, sizeof(path), "/proc/%d/cwd", s->mover);
	n = readlink(path, link, sizeof(link));
	CHECK(n == 1 && link[0] == '/', "the mover's directory");
	read_proc(s->mover, "status", text, sizeof(text));
	CHECK(strstr(text, "SigBlk:\tfffffffe7ffbfeff\n") || /* but KILL, STOP, 32 and 33 */
		      strstr(text, "SigBlk:\tfffffffffffbfeff\n"),
	      "signals not blocked");
	read_proc(s->pid, "status", text, sizeof(text));
	CHECK(strstr(text, "SigBlk:\t0000000000000000\n"), "the workload's signals are blocked");
	CHECK(strstr(text, "Threads:\t1\n"), "a thread more");
	ask(w, "check", "good");
}

/* ---- orders ---- */

static void test_move(struct workload *w, struct session *s)
{
	struct wire_order o = one_range(s, WIRE_OP_MOVE, w->base, WIRE_BATCH, 2);
	uint64_t data[WIRE_PAGE / 8];

	order(s, &o);
	CHECK(done_mask(s) == ~0ull, "not all of 64 pages were moved");
	for (unsigned int i = 0; i < WIRE_BATCH; i++) {
		CHECK(pread(s->mem, data, PAGE, (off_t)transit_of(s, 2, i)) == (ssize_t)PAGE,
		      "transit page %u", i);
		CHECK(data[5] == (2ull * 256 + i) * 0x9e3779b97f4a7c15ull + 5, "page %u differs",
		      i);
		store_page(s, w->base + i * PAGE, (uint8_t *)data);
	}
	o.lane = 3; /* the same pages again: nothing there any more */
	order(s, &o);
	CHECK(s->report.page[0] == WIRE_PAGE_HOLE && s->report.page[63] == WIRE_PAGE_HOLE, "%u",
	      s->report.page[0]);
	o = one_range(s, WIRE_OP_MOVE, w->base + 64 * PAGE, 1, 2);
	order(s, &o);
	CHECK(s->report.page[0] == WIRE_PAGE_OCCUPIED, "%u", s->report.page[0]);
	drop(s, 2, ~0ull);
	CHECK(drop_error(s, w) == 0, "drop: errno %u", s->report.drop_error);
	CHECK(!transit_has(s, 2, 0) && !transit_has(s, 2, 63), "dropped pages are still there");
	ask(w, "check", "good");
	CHECK(served >= WIRE_BATCH - 1, "only %u faults served", served);
	for (unsigned int i = 0; i < 20; i++) {
		CHECK(evict(s, w->base + (i % 4) * 64 * PAGE, 64, i % 4) == 64, "round %u", i);
		ask(w, "check", "good");
	}
	for (unsigned int i = 0; i < 4; i++)
		while (transit_has(s, i, 0) || transit_has(s, i, 63)) /* without another order */
			usleep(1000);
	ask(w, "check", "good");
}

static void test_results(struct workload *w, struct session *s)
{
	struct wire_order o;
	uint64_t masks[] = { 1, 2, 1ull << 63, 0x8000000000000001ull, 0x5555555555555555ull };

	/* Holes and neighbours: pages 4 and 6 of 8 are away. */
	CHECK(evict(s, w->base + 4 * PAGE, 1, 0) == 1, "one page");
	CHECK(evict(s, w->base + 6 * PAGE, 1, 0) == 1, "one page");
	CHECK(evict(s, w->base, 8, 1) == 6, "six of eight");
	for (unsigned int i = 0; i < 8; i++)
		CHECK(s->report.page[i] == (i == 4 || i == 6 ? WIRE_PAGE_HOLE : WIRE_PAGE_DONE),
		      "page %u: %u", i, s->report.page[i]);
	/* Several ranges fill a lane one after the other. */
	o = one_range(s, WIRE_OP_MOVE, w->base + 20 * PAGE, 2, 3);
	o.range[1] = (struct wire_move){ .address = w->base + 40 * PAGE, .pages = 3 };
	o.nr_ranges = 2;
	order(s, &o);
	CHECK((done_mask(s) & 31) == 31 && transit_has(s, 3, 4) && !transit_has(s, 3, 5), "ranges");
	for (unsigned int i = 0; i < 5; i++) {
		uint8_t data[WIRE_PAGE];

		CHECK(pread(s->mem, data, PAGE, (off_t)transit_of(s, 3, i)) == (ssize_t)PAGE, "%u",
		      i);
		store_page(s, w->base + (i < 2 ? 20 + i : 38 + i) * PAGE, data);
	}
	drop(s, 3, 31);
	/* An old generation moves nothing. */
	o = one_range(s, WIRE_OP_MOVE, w->base + 100 * PAGE, 8, 0);
	o.generation--;
	order(s, &o);
	for (unsigned int i = 0; i < 8; i++)
		CHECK(s->report.page[i] == WIRE_PAGE_STALE, "page %u: %u", i, s->report.page[i]);
	CHECK(!transit_has(s, 0, 0), "a stale order has moved a page");
	/* A mapping that can't be moved from. */
	ask(w, "guard 150", "guarded");
	o = one_range(s, WIRE_OP_MOVE, w->base + 150 * PAGE, 1, 0);
	order(s, &o);
	CHECK(s->report.page[0] == WIRE_PAGE_REFUSED, "%u", s->report.page[0]);
	/* Drop masks. */
	for (unsigned int i = 0; i < 5; i++) {
		CHECK(evict(s, w->base + 64 * PAGE, 64, 0) > 0, "mask %u", i);
		ask(w, "check", "good");
		drop(s, 0, masks[i]); /* of an empty lane: no error */
		CHECK(!drop_error(s, w), "errno %u", s->report.drop_error);
	}
}

static void test_events(struct workload *w, struct session *s)
{
	CHECK(evict(s, w->base, 64, 0) == 64, "evict");
	ask(w, "forget 3", "forgotten");
	ask(w, "forget 70", "forgotten");
	ask(w, "check", "good");
	CHECK(events >= 2, "%u events", events);
}

static void test_gate(struct workload *w, struct session *s)
{
	struct wire_order o = one_range(s, WIRE_OP_MOVE, w->base, 4, 0);
	uint32_t expected = WIRE_GATE_FREE;
	uint64_t begin;

	CHECK(__atomic_compare_exchange_n(&s->gate->word, &expected, WIRE_GATE_AGENT, 0,
					  __ATOMIC_SEQ_CST, __ATOMIC_RELAXED),
	      "the gate is not free");
	send_order(s, &o);
	CHECK(!await_report(s, 200), "the mover moves while we are inside");
	CHECK(!transit_has(s, 0, 0), "the mover moves while we are inside");
	gate_leave(s);
	CHECK(await_report(s, 20000) && (done_mask(s) & 15) == 15,
	      "no report after the gate opened");
	__atomic_store_n(&s->gate->wanted, 1, __ATOMIC_SEQ_CST);
	o = one_range(s, WIRE_OP_MOVE, w->base + 8 * PAGE, 4, 1);
	send_order(s, &o);
	CHECK(!await_report(s, 200), "the mover enters though we want to");
	__atomic_store_n(&s->gate->wanted, 0, __ATOMIC_SEQ_CST);
	CHECK(await_report(s, 20000) && (done_mask(s) & 15) == 15, "no report");
	/* It dies while it waits for the gate. */
	__atomic_store_n(&s->gate->wanted, 1, __ATOMIC_SEQ_CST);
	send_order(s, &o);
	kill(w->pid, SIGKILL);
	waitpid(w->pid, NULL, 0);
	begin = now_ms();
	CHECK(gone_within(s->mover, 20000), "the mover waits for the gate for ever");
	printf("# gone %u ms after its workload\n", (unsigned int)(now_ms() - begin));
}

static void test_stress(struct workload *w, struct session *s)
{
	unsigned int random = 1, rounds = 0, pages = 0;
	struct wire_order o;

	tell(w, "stress 4000");
	for (uint64_t end = now_ms() + 4000; now_ms() < end; rounds++) {
		unsigned int n, at;

		random = random * 1664525 + 1013904223;
		n = 1 + (random >> 10) % WIRE_BATCH;
		at = (random >> 20) % (w->pages - n);
		pages += evict(s, w->base + at * PAGE, n, rounds % WIRE_LANES);
		turn(-1, 0);
	}
	CHECK(read_line(w, 10000) && !strcmp(w->line, "good"), "stress: %s", w->line);
	o = one_range(s, WIRE_OP_POPULATE, w->base, 1, 0);
	order(s, &o);
	printf("# %u orders, %u pages moved, %u faults served, %u deferred, drop errno %u\n",
	       rounds, pages, served, faults_deferred, s->report.drop_error);
	CHECK(!s->report.drop_error && pages > 1000, "drop errno or too few pages");
}

/* ---- fork ---- */

static struct session *fork_one(struct workload *w)
{
	struct session *c = NULL;
	pid_t pid;

	CHECK(tell(w, "fork") && read_line(w, 10000), "fork");
	CHECK(sscanf(w->line, "child %d", &pid) == 1, "%s", w->line);
	for (uint64_t end = now_ms() + 20000; !c && now_ms() < end; turn(-1, 5))
		c = session_of(pid);
	CHECK(c, "the fork child has not attached");
	CHECK(c->mover > 0 && c->nonce, "mover %d nonce %" PRIu64, c->mover, c->nonce);
	return c;
}

static void test_fork(struct workload *w, struct session *s)
{
	struct wire_order o;
	struct session *c, *g;

	CHECK(evict(s, w->base, 64, 0) == 64, "evict");
	c = fork_one(w);
	CHECK(c != s && c->mover != s->mover, "the child has its parent's session");
	CHECK(has_fds(c->pid, 4), "%u descriptors", nr_fds(c->pid)); /* its pipe too */
	ask(w, "c check", "good");
	ask(w, "check", "good");
	/* Shared with the parent: busy until the child has pages of its own. */
	o = one_range(c, WIRE_OP_MOVE, w->base + 128 * PAGE, 8, 0);
	order(c, &o);
	CHECK(c->report.page[0] == WIRE_PAGE_BUSY && c->report.page[7] == WIRE_PAGE_BUSY, "%u",
	      c->report.page[0]);
	o.op = WIRE_OP_POPULATE;
	o.generation--;
	order(c, &o);
	CHECK((done_mask(c) & 255) == 0, "populate after a change");
	o.generation++;
	order(c, &o);
	CHECK((done_mask(c) & 255) == 255, "populate");
	CHECK(evict(c, w->base + 128 * PAGE, 8, 0) == 8, "evict from the child");
	CHECK(evict(c, w->base, 64, 1) == 64, "evict what the child was given");
	ask(w, "c fill", "filled");
	ask(w, "c check", "good");
	ask(w, "check", "good");
	/* A grandchild has a nonce of its own. */
	CHECK(evict(c, w->base, 64, 1) == 64, "evict");
	CHECK(tell(w, "c fork"), "fork");
	g = NULL;
	CHECK(read_line(w, 10000), "fork of the child");
	for (uint64_t end = now_ms() + 20000; !g && now_ms() < end; turn(-1, 5))
		g = session_of((pid_t)atoi(w->line + 6));
	CHECK(g && g->nonce && g->nonce != c->nonce, "the grandchild");
	ask(w, "c c check", "good");
	ask(w, "c reap", "reaped 0");
	CHECK(gone_within(g->mover, 10000), "the grandchild's mover");
	ask(w, "reap", "reaped 0");
	CHECK(gone_within(c->mover, 10000), "the child's mover");
	o = one_range(s, WIRE_OP_POPULATE, w->base, 8, 0);
	order(s, &o);
	CHECK((done_mask(s) & 255) == 255, "populate the parent");
	ask(w, "check", "good");
}

/* A child that the agent doesn't know runs on, served. */
static void test_fork_unknown(struct workload *w, struct session *s)
{
	pid_t pid;

	CHECK(evict(s, w->base, 64, 0) == 64, "evict");
	how = "no-nonce";
	CHECK(tell(w, "fork") && read_line(w, 10000), "fork");
	CHECK(sscanf(w->line, "child %d", &pid) == 1, "%s", w->line);
	ask(w, "c check", "good");
	CHECK(!session_of(pid), "attached without a nonce");
	ask(w, "reap", "reaped 0");
	ask(w, "check", "good");
}

/* ---- ends ---- */

static void test_kill(struct workload *w, struct session *s)
{
	uint64_t begin = now_ms();

	CHECK(evict(s, w->base, 64, 0) == 64, "evict");
	kill(w->pid, SIGKILL);
	waitpid(w->pid, NULL, 0);
	CHECK(gone_within(s->mover, 10000), "the mover outlives its workload");
	printf("# gone after %u ms\n", (unsigned int)(now_ms() - begin));
}

/* With nothing away, what it executed is nobody's any more as soon as its end is told;
   with the mover dead it ends as well. */
static void test_end(struct workload *w, struct session *s)
{
	char path[64], program[256];
	pid_t mover = s->mover;
	int status, fd;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/exe", w->pid);
	n = readlink(path, program, sizeof(program) - 1);
	CHECK(n > 0, "readlink: %s", strerror(errno));
	program[n] = 0;
	s->gate->away = 1;
	CHECK(tell(w, "exit 3") && waitpid(w->pid, &status, 0) == w->pid, "exit");
	fd = open(program, O_WRONLY | O_CLOEXEC);
	CHECK(fd >= 0, "%s: %s", program, strerror(errno));
	close(fd);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3, "status %x", status);
	CHECK(gone_within(mover, 10000), "the mover stays");
}

static void test_end_alone(struct workload *w, struct session *s)
{
	CHECK(!kill(s->mover, SIGKILL) && gone_within(s->mover, 10000), "the mover");
	finish(w, s, 3);
}

static void test_exec(struct workload *w, struct session *s)
{
	uint64_t begin;

	CHECK(evict(s, w->base, 64, 0) == 64, "evict");
	tell(w, "exec");
	begin = now_ms();
	run_for(20);
	CHECK(gone_within(s->mover, 10000), "the mover outlives its address space");
	printf("# gone %u ms after exec\n", (unsigned int)(now_ms() - begin));
	CHECK(alive(w->pid), "the new image");
	kill(w->pid, SIGKILL);
	waitpid(w->pid, NULL, 0);
}

static void test_lone_thread(struct workload *w, struct session *s)
{
	ask(w, "lone-thread", "alone");
	run_for(500);
	CHECK(alive(s->mover), "the mover took the main thread's end for an exec");
	CHECK(evict(s, w->base, 64, 0) == 64, "evict");
	ask(w, "check", "good");
	finish(w, s, 3);
}

static void test_leave(struct workload *w, struct session *s)
{
	struct wire_order o = { .op = WIRE_OP_LEAVE };
	struct uffdio_range all = { w->base, w->pages * PAGE };
	struct uffdio_range transit = { s->attach.transit, TRANSIT_BYTES };
	struct uffdio_range identity = { s->attach.identity, PAGE };

	CHECK(evict(s, w->base, 64, 0) == 64, "evict");
	ask(w, "check", "good");
	CHECK(!ioctl(s->uffd, UFFDIO_UNREGISTER, &all) &&
		      !ioctl(s->uffd, UFFDIO_UNREGISTER, &transit) &&
		      !ioctl(s->uffd, UFFDIO_UNREGISTER, &identity),
	      "unregister: %s", strerror(errno));
	send_order(s, &o);
	CHECK(gone_within(s->mover, 10000), "the mover does not leave");
	end_session(s);
	ask(w, "check", "good");
	CHECK(tell(w, "fork") && read_line(w, 20000), "fork");
	run_for(100);
	CHECK(nr_sessions() == 0, "a fork child of one that was left has attached");
	ask(w, "c check", "good");
	ask(w, "reap", "reaped 0");
}

static void test_bad_order(struct workload *w, struct session *s)
{
	struct wire_order o = one_range(s, WIRE_OP_MOVE, w->base + 1, 4, 0);

	CHECK(evict(s, w->base, 64, 0) == 64, "evict");
	send_order(s, &o);
	for (uint64_t end = now_ms() + 20000; s->sock >= 0 && now_ms() < end;)
		turn(-1, 5);
	CHECK(s->sock < 0, "the mover goes on after an order without sense");
	CHECK(alive(s->mover) && has_uffd(s->mover), "it must keep the userfaultfd");
	ask(w, "check", "good");
	finish(w, s, 3);
}

static void test_lockall(struct workload *w, struct session *s)
{
	CHECK(evict(s, w->base, 64, 0) == 64, "evict");
	ask(w, "lockall", "locked");
	ask(w, "check", "good");
	for (unsigned int lane = 0; lane < WIRE_LANES; lane++)
		drop(s, lane, ~0ull);
	CHECK(!drop_error(s, w), "drop: errno %u", s->report.drop_error);
	CHECK(evict(s, w->base, 64, 0) == 64, "evict after mlockall");
	ask(w, "check", "good");
}

/*
 * The agent is killed with pages out: a pause, not zeros. The parent spawns
 * the workload and looks on, a child of it is the agent.
 */
static void test_agent_death(const char *lib, const char *program)
{
	struct workload w = { .pid = 0 };
	pid_t mover = 0, agent;
	int out[2];
	char byte;

	CHECK(!pipe2(out, O_CLOEXEC), "pipe");
	spawn_only(&w, lib, program);
	agent = fork();
	if (!agent) {
		struct session *s = NULL;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		CHECK(read_line(&w, 20000), "start");
		sscanf(w.line, "range %" SCNx64 " %u", &w.base, &w.pages);
		while (!s) {
			turn(-1, 10);
			s = session_of(w.pid);
		}
		CHECK(!uffd_register(s->uffd, w.base, w.pages * PAGE), "register");
		CHECK(evict(s, w.base, 64, 0) == 64, "evict");
		if (write(out[1], &s->mover, sizeof(mover)) < 0)
			_exit(1);
		for (;;)
			pause();
	}
	CHECK(read(out[0], &mover, sizeof(mover)) == sizeof(mover), "the agent");
	kill(agent, SIGKILL);
	waitpid(agent, NULL, 0);
	close_fd(&listener);
	nap_ms(200);
	CHECK(alive(mover) && has_uffd(mover), "the mover must keep the userfaultfd");
	tell(&w, "check");
	nap_ms(1500);
	CHECK(fcntl(w.out, F_SETFL, O_NONBLOCK) == 0, "fcntl");
	CHECK(read(w.out, &byte, 1) < 0 && errno == EAGAIN, "the workload did not wait");
	CHECK(alive(w.pid) && alive(mover), "somebody has died");
	kill(w.pid, SIGKILL);
	waitpid(w.pid, NULL, 0);
	CHECK(gone_within(mover, 10000), "the mover stays");
}

/* ---- table ---- */

static const struct {
	const char *name;
	void (*run)(struct workload *w, struct session *s);
	bool ends; /* the workload has ended when it returns */
} scenarios[] = {
	{ "attach", test_attach, false },
	{ "move", test_move, false },
	{ "results", test_results, false },
	{ "events", test_events, false },
	{ "gate", test_gate, true },
	{ "stress", test_stress, false },
	{ "fork", test_fork, false },
	{ "fork-unknown", test_fork_unknown, false },
	{ "kill", test_kill, true },
	{ "end", test_end, true },
	{ "end-alone", test_end_alone, true },
	{ "exec", test_exec, true },
	{ "lone-thread", test_lone_thread, true },
	{ "leave", test_leave, false },
	{ "bad-order", test_bad_order, true },
	{ "lockall", test_lockall, false },
};

static int run_scenario(const char *name, const char *lib, const char *program)
{
	struct workload w = { .pid = 0 };

	snprintf(socket_path, sizeof(socket_path), "/tmp/shim_peer.%d", getpid());
	listen_at(socket_path);
	if (!strcmp(name, "agent-death")) {
		test_agent_death(lib, program);
		unlink(socket_path);
		return 0;
	}
	for (size_t i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++) {
		struct session *s;

		if (strcmp(name, scenarios[i].name))
			continue;
		s = spawn(&w, lib, program);
		scenarios[i].run(&w, s);
		if (!scenarios[i].ends)
			finish(&w, s, 3);
		unlink(socket_path);
		return 0;
	}
	die("no scenario %s", name);
}
