/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * All orders of actions, up to a depth; then everything runs to its end in one
 * order. A state that was seen before with as many actions left is not
 * walked again. There are no snapshots: each order is run from the start.
 *
 * The walk runs in a child process, so that a failed assertion of the agent is
 * a finding like any other. What it did last stands in shared memory; from
 * there it is shortened, action by action, while it still fails.
 */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "proc/session.h"
#include "world.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define SEQUENCE_MAX 256
#define DRAIN_MAX 5000
#define CRASH_AGAIN 3u /* points of a recovery at which the next worker dies too */

struct shared {
	struct result result;
	unsigned nr;
	struct action sequence[SEQUENCE_MAX];
	char message[512];
};
static struct shared *shared;
static bool tracing;

void violated(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(shared->message, sizeof(shared->message), format, args);
	va_end(args);
	_exit(3);
}

/* ---- names ---- */

static void print_action(FILE *to, const struct action *a)
{
	static const char *const names[] = {
		[DO_STEP] = "goes on", [DO_SERVE] = "owner: serves mm", [DO_MAIL] = "owner: takes its mail",
		[DO_JOBS] = "owner: a slice of its jobs", [DO_DEFERRED] = "owner: deferred commits",
		[DO_SETTLE] = "owner: settles", [DO_FORGET] = "owner: probes",
		[DO_TICK] = "worker: plans for mm", [DO_WORKER_MAIL] = "worker: takes its mail",
		[DO_MESSAGE] = "worker: hears from the mover of mm", [DO_GONE] = "worker: sees the end of mm",
		[DO_ROOM] = "worker: makes room for mm", [DO_PACK] = "packer: packs", [DO_FETCH] = "owner: looks at its fetches again",
		[DO_READ] = "slow store: ends its read", [DO_AHEAD] = "owner: has pages unpacked of mm",
		[DO_HELP] = "helper: goes on", [DO_MOVER] = "mover: goes on, mm",
	};
	static const char *const troubles[] = {
		[TROUBLE_NOMEM] = "the next placing answers ENOMEM",
		[TROUBLE_AGAIN] = "the next placing answers EAGAIN",
		[TROUBLE_HALF_MAP] = "a change will begin in the middle of the next placing",
		[TROUBLE_RECLAIM] = "lazily freed pages vanish",
		[TROUBLE_MOVER] = "the mover is killed",
		[TROUBLE_REVOKE] = "the mover is too slow",
		[TROUBLE_UNREADABLE] = "the next page in transit can't be read",
		[TROUBLE_UNWRITABLE] = "the next page of staging can't be written",
		[TROUBLE_CORRUPT] = "the store gives other bytes from now on",
		[TROUBLE_FULL] = "the store is full from now on",
		[TROUBLE_EMFILE] = "no descriptor for the next child",
		[TROUBLE_RESTORE] = "order: restore",
		[TROUBLE_DETACH] = "order: detach",
		[TROUBLE_HELLO] = "a child says hello",
		[TROUBLE_HASTE] = "threads will run on while their events are in the owner's hand",
		[TROUBLE_DROP] = "the next DROP fails",
		[TROUBLE_READ_EIO] = "the next read that ends fails",
		[TROUBLE_READ_LATE] = "the next read that ends was too late",
		[TROUBLE_READ_LOST] = "the next read that ends finds nothing",
		[TROUBLE_CRASH] = "the worker dies",
		[TROUBLE_UNCOUNTED] = "the next page is moved, and MOVE says EEXIST",
		[TROUBLE_UNTOLD] = "the next page is moved, and the mover doesn't know",
		[TROUBLE_SINK] = "pages will go down just before the next one is read",
		[TROUBLE_EXISTS] = "the next placing will say EEXIST",
		[TROUBLE_DIES] = "process and mover will die in the middle of the next placing",
		[TROUBLE_REGISTER] = "the next mapping can't be registered",
		[TROUBLE_NOBATCH] = "there is no memory for the next batch",
		[TROUBLE_MOVE_BUSY] = "the next page's MOVE says EBUSY",
		[TROUBLE_MOVE_HOLE] = "the next page's MOVE says ENOENT",
		[TROUBLE_MOVE_STALE] = "the next page's MOVE says EAGAIN",
		[TROUBLE_MOVE_OCCUPIED] = "the next page's MOVE says EEXIST",
		[TROUBLE_MOVE_REFUSED] = "the next page's MOVE says EINVAL",
		[TROUBLE_MARKED] = "the next taking away of a mark answers EAGAIN",
		[TROUBLE_BEHIND] = "the placing behind the next mark that is taken away answers EAGAIN",
	};
	const struct scenario *s = w.scenario;

	if (a->kind == DO_START) {
		const struct choice *c = a->a < THREADS - MMS + 1 ? &s->choices[a->b] : &s->child[a->b];

		fprintf(to, "thread %u: %s, page %u", a->a, op_name(c->op), c->page);
	} else if (a->kind == DO_STEP) {
		fprintf(to, "thread %u: goes on", a->a);
	} else if (a->kind == DO_TROUBLE) {
		fprintf(to, "%s", troubles[a->b]);
		if (a->a)
			fprintf(to, ", and the next one at point %u of its recovery", a->a);
	} else {
		fprintf(to, "%s %u", names[a->kind], a->a);
		if (a->b)
			fprintf(to, ", and dies at point %u of that", a->b);
	}
}

/* ---- actions ---- */

static bool is_child_thread(unsigned t)
{
	return t > MOVER_THREAD;
}

static const struct choice *choice_of(const struct action *a)
{
	return is_child_thread(a->a) ? &w.scenario->child[a->b] : &w.scenario->choices[a->b];
}

static bool is_enabled(const struct action *a)
{
	switch (a->kind) {
	case DO_START:
		return w.ops < w.scenario->ops && thread_may_start(&w.thread[a->a], choice_of(a));
	case DO_STEP:
		return thread_may_step(&w.thread[a->a]);
	case DO_MOVER:
		return w.mm[a->a].used && scripted_mover_may_step(&w.mm[a->a]);
	case DO_READ:
		return agent_may(a);
	case DO_TROUBLE:
		return (w.scenario->trouble >> a->b & 1) && !(w.troubles >> a->b & 1) &&
		       (unsigned)__builtin_popcountll(w.troubles) < MAX(w.scenario->troubles, 1u) &&
		       agent_may_trouble(a->b);
	default:
		return agent_may(a) && (!a->b || agent_may_trouble(TROUBLE_CRASH));
	}
}

/* False: it was to die at a point that there is not. */
static bool perform(const struct action *a)
{
	bool done = true;

	if (tracing) {
		fputs("#   ", stdout);
		print_action(stdout, a);
		fputc('\n', stdout);
		fflush(stdout);
	}
	switch (a->kind) {
	case DO_START:
		w.ops++;
		thread_start(a->a, choice_of(a));
		break;
	case DO_STEP:
		thread_step(a->a);
		break;
	case DO_MOVER:
		scripted_mover_step(a->a);
		break;
	case DO_TROUBLE:
		w.troubles |= UINT64_C(1) << a->b;
		done = agent_trouble(a->b, a->a);
		break;
	default:
		done = agent_do(a);
	}
	agent_after();
	check_step();
	shared->result.actions++;
	return done;
}

static void list_one(struct action *to, unsigned *n, unsigned kind, unsigned a, unsigned b)
{
	struct action action = { (uint8_t)kind, (uint8_t)a, (uint8_t)b };

	if (is_enabled(&action))
		to[(*n)++] = action;
	if (*n == ACTIONS_MAX)
		abort();
}

/* What runs by itself, and what begins something. */
static unsigned list_running(struct action *to)
{
	unsigned n = 0;

	for (unsigned t = 0; t < THREADS; t++)
		list_one(to, &n, DO_STEP, t, 0);
	for (unsigned kind = DO_SERVE; kind <= DO_MOVER; kind++) {
		bool per_mm = kind == DO_SERVE || kind == DO_MESSAGE || kind == DO_GONE || kind == DO_MOVER ||
			      kind == DO_ROOM || kind == DO_READ;

		if (kind == DO_TICK || kind == DO_AHEAD)
			continue;
		for (unsigned m = 0; m < (per_mm ? MMS : 1); m++)
			list_one(to, &n, kind, m, 0);
	}
	return n;
}

static bool is_agents(const struct action *a)
{
	return a->kind >= DO_SERVE && a->kind <= DO_FETCH;
}

/* Each of the agent's own actions once more for each point at which it may die. */
static unsigned add_deaths(struct action *to, unsigned n)
{
	unsigned all = n;

	for (unsigned i = 0; i < n; i++)
		for (unsigned point = 1; is_agents(&to[i]) && point <= CRASH_POINTS; point++)
			list_one(to, &all, to[i].kind, to[i].a, point);
	return all;
}

/* ... of the first process; which of them begins makes no difference. */
static bool another_is_idle(unsigned thread)
{
	for (unsigned t = 0; t < thread && thread < MOVER_THREAD; t++)
		if (w.thread[t].used && w.thread[t].op == OP_NONE)
			return true;
	return false;
}

static unsigned list_all(struct action *to)
{
	const struct scenario *s = w.scenario;
	unsigned n = list_running(to);

	for (unsigned t = 0; t < THREADS; t++)
		for (unsigned c = 0; t != MOVER_THREAD && (t < s->threads || is_child_thread(t)) && !another_is_idle(t) &&
				     (is_child_thread(t) ? c < ARRAY_SIZE(s->child) && s->child[c].op :
							   c < ARRAY_SIZE(s->choices) && s->choices[c].op);
		     c++)
			list_one(to, &n, DO_START, t, c);
	for (unsigned m = 0; m < MMS; m++) {
		list_one(to, &n, DO_TICK, m, 0);
		list_one(to, &n, DO_AHEAD, m, 0);
	}
	for (unsigned t = 0; t < TROUBLES; t++)
		for (unsigned again = 0; again <= (t == TROUBLE_CRASH ? CRASH_AGAIN : 0); again++)
			list_one(to, &n, DO_TROUBLE, again, t);
	return s->trouble & TROUBLE(CRASH) ? add_deaths(to, n) : n;
}

/* ---- a run ---- */

/* Everything that is under way ends; round robin, so that nobody starves. */
static void drain(void)
{
	struct action list[ACTIONS_MAX];
	unsigned n, idle = 0;

	for (unsigned i = 0; i < DRAIN_MAX && (n = list_running(list)); i++) {
		bool polling = true; /* only what asks again and again */

		for (unsigned k = 0; k < n; k++) {
			polling &= list[k].kind == DO_JOBS || list[k].kind == DO_SETTLE ||
				   list[k].kind == DO_DEFERRED || list[k].kind == DO_FORGET ||
				   list[k].kind == DO_FETCH;
			if (is_enabled(&list[k]))
				perform(&list[k]);
		}
		idle = polling ? idle + 1 : 0;
		w.clock_ns += NSEC_PER_SEC / 100;
		if (idle == 50)
			return; /* whoever still waits shows in check_end */
	}
	if (list_running(list))
		violated("INV-3: it goes on for ever");
}

static void do_op(unsigned thread, const struct choice *c)
{
	if (!thread_may_start(&w.thread[thread], c))
		return;
	thread_start(thread, c);
	agent_after();
	check_step();
	drain();
}

static void evict_all(void)
{
	struct action tick = { DO_TICK, 0, 0 };

	for (unsigned i = 0; i < AREAS && agent_may(&tick); i++) {
		agent_do(&tick);
		agent_after();
		drain();
	}
	w.ticks = 0;
}

static void begin_run(const struct scenario *s)
{
	static struct scenario quiet;

	memset(&w, 0, sizeof(w));
	w.scenario = s;
	kernel_reset();
	quiet = *s;
	quiet.ticks = 255;
	quiet.grace = s->staged || s->grace;
	agent_begin(s);
	for (unsigned a = 0; a < AREAS; a++)
		w.mm[0].mapped[a] = (s->areas ? s->areas : 1u) >> a & 1;
	for (unsigned p = 0; p < PAGES; p++)
		w.mm[0].may[p] = w.mm[0].mapped[p / AREA_PAGES] ? MAY(0) : MAY_SEGV;
	for (unsigned t = 0; t < MAX(s->threads, 1u); t++)
		w.thread[t] = (struct thread){ .used = true };
	w.scenario = &quiet;
	for (unsigned p = 0; p < PAGES; p++) {
		struct choice write = { OP_WRITE, (uint8_t)p, 1 };

		if (w.mm[0].mapped[p / AREA_PAGES])
			do_op(0, &write);
	}
	if (s->evicted || s->staged)
		evict_all();
	if (s->slow && !(s->trouble & TROUBLE(SINK)))
		agent_sink();
	for (unsigned i = 0; i < ARRAY_SIZE(s->script) && s->script[i].op; i++)
		do_op(0, &s->script[i]);
	w.scenario = s;
}

/* All is over: every page is looked at once more, by every process. */
static void end_run(void)
{
	drain();
	check_end();
	for (unsigned t = 0; t < THREADS; t++)
		for (unsigned p = 0; t != MOVER_THREAD && t != 1 && p < PAGES; p++) {
			struct choice read = { OP_READ, (uint8_t)p, 1 };

			w.half_map = w.again = w.nomem = w.haste = w.sink = w.exists = w.dies = w.marked = w.behind = false;
			w.read_error = 0;
			if (w.thread[t].used)
				do_op(t, &read);
			check_end();
		}
	for (int i = 0; i < MMS; i++)
		if (w.mm[i].used && w.mm[i].users)
			mm_exit(i);
	agent_after();
	agent_end();
	shared->result.placed += w.placed;
	shared->result.moved += w.moved;
	shared->result.refaulted += w.refaulted;
}

/* ---- states seen before ---- */

static struct seen {
	uint64_t hash;
	uint8_t left;
} *seen;
static unsigned seen_bits;

static int compare_threads(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct thread));
}

static uint64_t hash_state(void)
{
	static unsigned char buf[65536];
	struct world copy = w;
	unsigned char order[THREADS];
	size_t n = 0;

	/* Sequence numbers matter as an order only. */
	for (unsigned t = 0; t < THREADS; t++) {
		order[t] = 0;
		for (unsigned k = 0; k < THREADS; k++)
			order[t] += w.thread[k].used && w.thread[k].blocked != RUNS &&
				    w.thread[k].seq < w.thread[t].seq;
		copy.thread[t].seq = w.thread[t].blocked != RUNS ? order[t] : 0;
	}
	/* Nor does it matter which of them is which. */
	qsort(copy.thread, MOVER_THREAD, sizeof(copy.thread[0]), compare_threads);
	copy.next_seq = copy.placed = copy.moved = copy.refaulted = 0;
	copy.clock_ns = 0;
	copy.next_frame = 0;
	for (int m = 0; m < MMS; m++) {
		struct mm *mm = &copy.mm[m];

		mm->session = NULL;
		mm->uffd = mm->mem = mm->pagemap = mm->sock = 0;
		for (unsigned p = 0; p < PAGES; p++)
			mm->page[p].frame = mm->page[p].shared && frame_users(w.mm[m].page[p].frame) > 1;
		for (unsigned lane = 0; lane < WIRE_LANES; lane++)
			for (unsigned p = 0; p < PAGES; p++)
				mm->transit[lane][p].frame = 0;
		for (unsigned i = 0; i < mm->nr_orders; i++)
			mm->orders[i].generation = w.mm[m].session && w.mm[m].session->gate &&
						   w.mm[m].session->gate->generation == mm->orders[i].generation;
		memset(&mm->orders[mm->nr_orders], 0,
		       (ARRAY_SIZE(mm->orders) - mm->nr_orders) * sizeof(mm->orders[0]));
	}
	memcpy(buf, &copy, sizeof(copy));
	n = sizeof(copy);
	n += agent_hash(buf + n, sizeof(buf) - n);
	return XXH3_64bits(buf, n) | 1;
}

/* True: it was walked with at least as many actions left. */
static bool was_seen(unsigned left)
{
	uint64_t hash = hash_state();

	for (uint64_t i = hash >> (64 - seen_bits), n = 0; n < 64; n++, i = (i + 1) & ((1u << seen_bits) - 1)) {
		if (seen[i].hash == hash) {
			if (seen[i].left >= left)
				return true;
			seen[i].left = (uint8_t)left;
			return false;
		}
		if (!seen[i].hash) {
			seen[i] = (struct seen){ hash, (uint8_t)left };
			shared->result.states++;
			return false;
		}
	}
	return false; /* the table is full: walk it again */
}

/* ---- all orders ---- */

struct node {
	struct action list[ACTIONS_MAX];
	unsigned n, at;
};
static struct node nodes[SEQUENCE_MAX];

static bool record(const struct action *a)
{
	if (shared->nr < SEQUENCE_MAX)
		shared->sequence[shared->nr++] = *a;
	return perform(a);
}

/* There was no such point in the last action, nor those behind it in the list. */
static void skip_deaths(struct node *node)
{
	const struct action *last = &node->list[node->at];

	while (node->at + 1 < node->n && node->list[node->at + 1].kind == last->kind &&
	       (last->kind == DO_TROUBLE ? node->list[node->at + 1].b == last->b : node->list[node->at + 1].a == last->a))
		node->at++;
}

/* One order: what the nodes say, then the first of each. Returns how deep it
   went. */
static unsigned run_order(const struct scenario *s, unsigned depth, unsigned known)
{
	unsigned d;

	shared->nr = 0;
	begin_run(s);
	for (d = 0; d < depth; d++) {
		struct node *node = &nodes[d];

		if (d >= known) {
			if (was_seen(depth - d))
				break;
			node->n = list_all(node->list);
			node->at = 0;
			if (!node->n)
				break;
		}
		/* The blobstore outlives a run: where it is in the middle of tidying
		   up, what is to go down a tier may stay once. */
		if (!is_enabled(&node->list[node->at]))
			break;
		if (!record(&node->list[node->at])) {
			skip_deaths(node);
			d++;
			break;
		}
	}
	end_run();
	shared->result.runs++;
	return d;
}

static void walk(const struct scenario *s, unsigned depth, uint64_t runs_max)
{
	unsigned known = 0;

	for (;;) {
		unsigned d = run_order(s, depth, known);

		while (d && ++nodes[d - 1].at == nodes[d - 1].n)
			d--;
		if (!d) {
			shared->result.complete = true;
			return;
		}
		if (runs_max && shared->result.runs >= runs_max)
			return;
		known = d;
	}
}

static void walk_at_random(const struct scenario *s, unsigned depth, uint64_t runs, uint64_t seed)
{
	struct action list[ACTIONS_MAX];

	for (uint64_t run = 0; run < runs; run++) {
		uint64_t x = seed * 0x9e3779b97f4a7c15ull + run * 0xd1342543de82ef95ull + 1;
		unsigned n;

		shared->nr = 0;
		begin_run(s);
		for (unsigned d = 0; d < depth && (n = list_all(list)); d++) {
			x = x * 6364136223846793005ull + 1442695040888963407ull;
			record(&list[(x >> 33) % n]);
		}
		end_run();
		shared->result.runs++;
	}
}

/* ---- in a child ---- */

static bool in_child(void (*function)(const void *), const void *arg)
{
	pid_t pid;
	int status;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		abort();
	if (pid == 0) {
		signal(SIGABRT, SIG_DFL);
		agent_open();
		function(arg);
		_exit(0);
	}
	if (waitpid(pid, &status, 0) != pid)
		abort();
	if (WIFSIGNALED(status) || (WEXITSTATUS(status) && WEXITSTATUS(status) != 3))
		snprintf(shared->message, sizeof(shared->message),
			 "the agent died of %s %d: an assertion or a sanitizer, see above",
			 WIFSIGNALED(status) ? "signal" : "status",
			 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	return status == 0;
}

struct job {
	const struct scenario *scenario;
	const struct limits *limits;
	const struct action *sequence;
	unsigned nr;
};

static void job_walk(const void *arg)
{
	const struct job *job = arg;
	unsigned depth = job->limits->depth ? job->limits->depth : job->scenario->depth;

	if (job->limits->percent)
		depth = MAX(depth * job->limits->percent / 100, 1);
	seen_bits = depth > 10 ? 22 : 18; /* a sanitizer takes its time for each byte */
	seen = calloc((size_t)1 << seen_bits, sizeof(*seen));
	if (job->limits->seed)
		walk_at_random(job->scenario, depth * 4, job->limits->runs_max, job->limits->seed);
	else
		walk(job->scenario, depth, job->limits->runs_max);
}

static void job_replay(const void *arg)
{
	const struct job *job = arg;

	bool wanted = tracing;

	if (!wanted)
		(void)!freopen("/dev/null", "w", stderr); /* assertions' words, a hundred times */
	tracing = false;
	begin_run(job->scenario);
	tracing = wanted;
	for (unsigned i = 0; i < job->nr; i++)
		if (is_enabled(&job->sequence[i]))
			perform(&job->sequence[i]);
	if (tracing)
		puts("#   (from here on everything runs to its end)");
	end_run();
}

/* ---- a short trace ---- */

static unsigned shorten(const struct scenario *s, struct action *sequence, unsigned nr)
{
	struct action shorter[SEQUENCE_MAX];

	for (unsigned size = nr / 2; size; size /= 2)
		for (unsigned at = 0; at + size <= nr;) {
			struct job job = { .scenario = s, .sequence = shorter, .nr = nr - size };

			memcpy(shorter, sequence, at * sizeof(*sequence));
			memcpy(shorter + at, sequence + at + size, (nr - at - size) * sizeof(*sequence));
			if (in_child(job_replay, &job)) {
				at += size;
				continue;
			}
			nr -= size;
			memcpy(sequence, shorter, nr * sizeof(*sequence));
		}
	return nr;
}

static void show(const struct scenario *s)
{
	struct action sequence[SEQUENCE_MAX];
	struct job job = { .scenario = s, .sequence = sequence };

	if (getenv("USWAP_FLOW_BRIEF")) {
		printf("# %s\n", shared->message);
		return;
	}
	memcpy(sequence, shared->sequence, sizeof(sequence));
	job.nr = shorten(s, sequence, shared->nr);
	printf("# %s, the shortest order found that fails (of %u actions):\n", s->name, shared->nr);
	tracing = true;
	if (in_child(job_replay, &job))
		puts("# This time it did not fail: something came in that is not scripted.");
	tracing = false;
	printf("# %s\n", shared->message);
	fflush(stdout);
}

struct result explore(const struct scenario *s, const struct limits *limits)
{
	struct job job = { .scenario = s, .limits = limits };

	if (!shared) {
		shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (shared == MAP_FAILED)
			abort();
	}
	memset(shared, 0, sizeof(*shared));
	w.scenario = s;
	if (!in_child(job_walk, &job)) {
		struct result result = shared->result;

		result.failed = true;
		show(s);
		return result;
	}
	return shared->result;
}
