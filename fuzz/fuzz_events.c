/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sequences of userfaultfd messages, and of answers to what the agent then
 * asks of the kernel, in any order, also most of the impossible ones: no step of a slot
 * that is illegal, nothing counted wrongly, nothing left when all is over.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "common/util.h"
#include "flow/flow.h"

#define BASE 0x10000000ull
#define PAGES 24u
#define SESSIONS_MAX 8u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct flow flow;
static struct owner owner;
static const uint8_t *input;
static size_t left;
static unsigned nr_sessions;

static uint8_t byte(void)
{
	if (!left)
		return 0;
	left--;
	return *input++;
}

static uint64_t address(void)
{
	uint8_t b = byte();

	return b < 240 ? BASE + b % PAGES * PAGE_BYTES : (uint64_t)b << (b % 50 & ~7u) << 12;
}

static uint64_t length(void)
{
	return (uint64_t)(byte() % 8 + 1) * PAGE_BYTES;
}

/* ---- the kernel ---- */

static int result(uint64_t len, int64_t *done)
{
	static const int errors[] = { 0, -EAGAIN, -EEXIST, -ENOENT, -ENOMEM, -EAGAIN, -ESRCH, -EFAULT };
	uint8_t b = byte();
	int r = errors[b % 8];

	if (r == -ESRCH && b < 200)
		r = 0;
	*done = r ? r : (int64_t)len;
	if (r == -EAGAIN && b > 128 && len > PAGE_BYTES)
		*done = PAGE_BYTES;
	return r;
}

static int any_copy(int fd, uint64_t dst, const void *src, uint64_t len, int64_t *done)
{
	volatile uint8_t sum = 0;

	(void)fd;
	(void)dst;
	for (uint64_t i = 0; i < len; i += PAGE_BYTES / 2) /* it must be readable */
		sum = (uint8_t)(sum + ((const uint8_t *)src)[i]);
	return result(len, done);
}

static int any_zero(int fd, uint64_t dst, uint64_t len, int64_t *done)
{
	(void)fd;
	(void)dst;
	return result(len, done);
}

static int any_range(int fd, uint64_t start, uint64_t len)
{
	(void)fd;
	(void)start;
	(void)len;
	return 0;
}

static int any_register(int fd, uint64_t start, uint64_t len, bool marks)
{
	(void)marks;
	return any_range(fd, start, len);
}

static int any_mark(int fd, uint64_t start, uint64_t len, bool on)
{
	(void)on;
	return any_range(fd, start, len);
}

static int any_read(int fd, struct uffd_msg *m, unsigned max)
{
	unsigned n = 0;

	(void)fd;
	for (unsigned want = byte() % 5; n < want && n < max && left; n++) {
		m[n] = (struct uffd_msg){ 0 };
		switch (byte() % 8) {
		case 0:
			m[n].event = UFFD_EVENT_REMAP;
			m[n].arg.remap.from = address();
			m[n].arg.remap.to = address();
			m[n].arg.remap.len = length();
			/* mremap refuses what overlaps */
			if (m[n].arg.remap.from < m[n].arg.remap.to + m[n].arg.remap.len &&
			    m[n].arg.remap.to < m[n].arg.remap.from + m[n].arg.remap.len)
				m[n].arg.remap.to = m[n].arg.remap.from + m[n].arg.remap.len;
			break;
		case 1:
		case 2:
			m[n].event = byte() % 2 ? UFFD_EVENT_UNMAP : UFFD_EVENT_REMOVE;
			m[n].arg.remove.start = address();
			m[n].arg.remove.end = m[n].arg.remove.start + length();
			break;
		case 3:
			if (nr_sessions == SESSIONS_MAX)
				continue;
			nr_sessions++;
			m[n].event = UFFD_EVENT_FORK;
			m[n].arg.fork.ufd = (uint32_t)eventfd(0, EFD_CLOEXEC);
			break;
		default:
			m[n].event = UFFD_EVENT_PAGEFAULT;
			m[n].arg.pagefault.address = address() + byte();
			m[n].arg.pagefault.flags = byte() % 2 ? UFFD_PAGEFAULT_FLAG_WRITE : 0;
		}
	}
	return (int)n;
}

static int any_is_registered(int fd, uint64_t at)
{
	(void)fd;
	(void)at;
	return (int)(byte() % 4) - 1 ? byte() % 2 : -EAGAIN;
}

static const struct uffd_ops ops = {
	.copy = any_copy, .zero = any_zero, .poison = any_zero, .wake = any_range,
	.unregister = any_range, .mark = any_mark, .register_range = any_register, .read = any_read,
	.is_registered = any_is_registered,
};

/* ---- the agent ---- */

static void set_up(void)
{
	uffd_ops = &ops;
	flow.zeros = calloc(FLOW_WINDOW_MAX, PAGE_BYTES);
	owner.flow = &flow;
	owner.slots = slot_pool_new((size_t)64 << 20);
	owner.page = aligned_alloc(PAGE_BYTES, FLOW_RUN_MAX * PAGE_BYTES);
	owner.ring = calloc(1, sizeof(*owner.ring));
	owner.epoll = epoll_create1(EPOLL_CLOEXEC);
	memset(owner.reserve, -1, sizeof(owner.reserve));
	if (mailbox_init(&owner.box) < 0 || mailbox_init(&flow.worker) < 0 || mailbox_init(&flow.engine) < 0 ||
	    !owner.slots || slot_pool_reserve(owner.slots, 1024) < 0)
		abort();
}

static void begin(void)
{
	static struct domain domain;
	struct session *s = session_new(1, 0);

	memset(&domain, 0, sizeof(domain));
	domain.refs = 1; /* ours, for good */
	s->domain = &domain;
	s->owner = &owner;
	s->fds.uffd = eventfd(0, EFD_CLOEXEC);
	slotmap_init(&s->slots, owner.slots, &flow_slot_refs, s);
	if (ranges_add(&s->registered, BASE, BASE + PAGES / 2 * PAGE_BYTES) < 0 || flow_watch(&owner, s) < 0)
		abort();
	for (uint64_t vpn = BASE >> PAGE_SHIFT; vpn < (BASE >> PAGE_SHIFT) + PAGES / 2; vpn++)
		if (slotmap_set(&s->slots, vpn, slot_make(SLOT_LEAVING, 0, 0)) < 0 ||
		    slotmap_set(&s->slots, vpn, slot_make(SLOT_FILL, 0, vpn & 0xff)) < 0)
			abort();
	nr_sessions = 1;
}

static struct session *pick(void)
{
	unsigned n = byte() % SESSIONS_MAX;
	struct session *s = owner.owned;

	while (s && s->next_owned && n--)
		s = s->next_owned;
	return s;
}

static void take_mail(void);

static void run_jobs(void)
{
	struct session *jobs = owner.jobs, *next;

	owner.jobs = NULL;
	for (struct session *s = jobs; s; s = next) {
		next = s->next_job;
		if (flow_job(&owner, s)) {
			s->next_job = owner.jobs;
			owner.jobs = s;
		} else if (session_state(s) == SESSION_CLOSED) {
			take_mail(); /* the last of it */
			session_free(s);
		} else if (session_state(s) != SESSION_CLOSING) {
			s->in_job = false;
		}
	}
}

static void take_mail(void)
{
	struct mail *next;

	for (struct mail *mail = mailbox_take(&flow.engine); mail; mail = next) {
		next = mail->next;
		(void)notice_take(CONTAINER_OF(mail, struct notice, mail));
	}
	for (struct mail *mail = mailbox_take(&flow.worker); mail; mail = next) {
		next = mail->next;
		(void)notice_take(CONTAINER_OF(mail, struct notice, mail));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!owner.slots)
		set_up();
	input = data;
	left = size;
	begin();
	while (left && owner.owned) {
		struct session *s = pick();

		switch (byte() % 8) {
		case 0:
			events_settle_idle(&owner, s);
			break;
		case 1:
			flow_start_restore(&owner, s, byte() % 2);
			break;
		case 2:
			run_jobs();
			break;
		default:
			fault_serve(&owner, s);
		}
		take_mail();
		if (slot_pool_ready(owner.slots) < 256)
			(void)slot_pool_reserve(owner.slots, 1024);
	}
	left = 0;
	while (owner.owned)
		flow_close(&owner, owner.owned);
	while (owner.jobs) {
		take_mail();
		run_jobs();
	}
	return 0;
}
