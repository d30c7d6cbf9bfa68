/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * control.sock: D-Bus without a bus. Everybody may connect and read, so what
 * one user can take of our descriptors and memory is bounded.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <systemd/sd-id128.h>

#include "common/kept.h"
#include "common/log.h"
#include "common/reaper.h"
#include "common/util.h"
#include "control/private.h"

#define PEERS_MAX 256
#define PEERS_PER_USER 8
/* Of a handshake. Their answers find room at once: none is ready with one on its way. */
#define LINES_MAX 64u
#define MESSAGE_MAX (64u << 10) /* calls are of some hundred bytes */
/* What the kernel keeps of answers, as is usual: sd-bus asks for 8 MiB, and root gets it. */
#define ANSWERS_MAX (208 << 10)
/* An agent before us may be dying: until then nobody can ask us. */
#define TAKEN_USEC 1000000

/* Root is never locked out by the others. */
static bool room_for(const struct control *control, uid_t uid)
{
	unsigned all = 0, same = 0;

	for (const struct endpoint *e = control->endpoints; e; e = e->next) {
		if (!e->peer || e->uid == 0)
			continue;
		all++;
		same += e->uid == uid;
	}
	return uid == 0 || (all < PEERS_MAX && same < PEERS_PER_USER);
}

/*
 * Between a client and its sd-bus. That takes messages of up to 128 MiB, reads them as fast
 * as they come, and keeps what there is of one until all of it is: a gibibyte of our memory
 * for each user. So it gets what has come by a pair of sockets, looked at before, and a
 * message only when nothing is left of the one before it, nor of its answer.
 *
 * The handshake goes through line by line, with sd-bus told to look at each: when it has let
 * the client in, what comes next is the first message. Since no more than that is ever with
 * it, nor does anything wait there unseen.
 */

/* All that is left of it goes with the endpoint, when sd-bus sees the end. */
static void end_input(struct endpoint *endpoint)
{
	endpoint->input = sd_event_source_disable_unref(endpoint->input);
	endpoint->near = safe_close(endpoint->near);
}

/* Of n bytes that follow what was looked at before: those of the message that goes on, or
   begins, there. 0: it is too long. */
static size_t part_of_message(struct peer_input *in, const unsigned char *data, size_t n)
{
	size_t head = in->rest ? 0 : MIN(n, sizeof(in->head) - in->nr_head), part;
	uint32_t body, fields;

	memcpy(in->head + in->nr_head, data, head);
	in->nr_head += (unsigned)head;
	if (in->nr_head == sizeof(in->head)) {
		memcpy(&body, in->head + 4, sizeof(body));
		memcpy(&fields, in->head + 12, sizeof(fields));
		if (in->head[0] != 'l') { /* as 'B' has it; sd-bus refuses all others */
			body = __builtin_bswap32(body);
			fields = __builtin_bswap32(fields);
		}
		if (body > MESSAGE_MAX || fields > MESSAGE_MAX)
			return 0;
		in->rest = ((fields + 7) & ~7u) + body;
		in->nr_head = 0;
	}
	part = MIN(n - head, (size_t)in->rest);
	in->rest -= (uint32_t)part;
	return head + part;
}

static void drop(struct endpoint *endpoint)
{
	static struct log_limit limit;

	log_limited(&limit, LOG_LEVEL_WARNING, "a client of uid %u at control.sock sends what is no call: dropped",
		    (unsigned)endpoint->uid);
	end_input(endpoint);
}

/* All that was passed to its sd-bus is read and done, and what was answered is sent: of
   answers, which can be a thousand times as long as calls, one at most is kept for it. */
static bool is_done(const struct endpoint *endpoint)
{
	uint64_t calls, answers;
	int passed;

	return sd_bus_get_n_queued_write(endpoint->bus, &answers) >= 0 && !answers &&
	       sd_bus_get_n_queued_read(endpoint->bus, &calls) >= 0 && !calls &&
	       ioctl(endpoint->near, SIOCOUTQ, &passed) == 0 && !passed;
}

/* To sd-bus, of what waits: one message, or what there is of it, which is taken then. */
static void pass_message(struct endpoint *endpoint, int fd, unsigned char *data, size_t n)
{
	struct peer_input in = endpoint->in;
	size_t part = part_of_message(&in, data, n);
	ssize_t sent;

	if (!part) {
		drop(endpoint);
		return;
	}
	sent = is_done(endpoint) ? send(endpoint->near, data, part, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;
	if (sent > 0) {
		(void)part_of_message(&endpoint->in, data, (size_t)sent);
		(void)recv(fd, data, (size_t)sent, MSG_DONTWAIT);
	}
	endpoint->held = true; /* until peer_go_on() */
	(void)sd_event_source_set_enabled(endpoint->input, SD_EVENT_OFF);
}

/* One line of the handshake, or what there is of one. */
static void pass_line(struct endpoint *endpoint, int fd, unsigned char *data, size_t n)
{
	const unsigned char *end = memchr(data, '\n', n);
	struct control *control = endpoint->control;
	sd_bus *bus = sd_bus_ref(endpoint->bus); /* processing may end the endpoint */
	ssize_t sent = send(endpoint->near, data, end ? (size_t)(end - data) + 1 : n, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (sent > 0)
		(void)recv(fd, data, (size_t)sent, MSG_DONTWAIT);
	while (sd_bus_is_ready(bus) == 0 && sd_bus_process(bus, NULL) > 0)
		;
	if (endpoint_find(control, bus) == endpoint && (sent <= 0 || ++endpoint->in.lines > LINES_MAX))
		drop(endpoint);
	sd_bus_unref(bus);
}

static int on_input(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
	struct endpoint *endpoint = userdata;
	unsigned char data[4096];
	ssize_t n = recv(fd, data, sizeof(data), MSG_PEEK | MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0)
		end_input(endpoint);
	else if (sd_bus_is_ready(endpoint->bus) > 0)
		pass_message(endpoint, fd, data, (size_t)n);
	else
		pass_line(endpoint, fd, data, (size_t)n);
	return 0;
}

void peer_go_on(struct endpoint *endpoint)
{
	if (!endpoint->input || !endpoint->held || !is_done(endpoint))
		return;
	endpoint->held = false;
	(void)sd_event_source_set_enabled(endpoint->input, SD_EVENT_ON);
}

static int take_input(struct endpoint *endpoint, int fd, int near)
{
	int r = sd_event_add_io(endpoint->control->event, &endpoint->input, fd, EPOLLIN, on_input, endpoint);

	endpoint->near = near;
	if (r < 0)
		close(fd);
	else
		r = sd_event_source_set_io_fd_own(endpoint->input, true);
	return r;
}

/* Both become the bus's, in any case. */
static int open_peer(int far, int fd, sd_bus **bus)
{
	const int room = ANSWERS_MAX;
	sd_id128_t id;
	int r = sd_id128_randomize(&id);

	if (r >= 0)
		r = sd_bus_new(bus);
	if (r >= 0)
		r = sd_bus_set_description(*bus, "peer");
	if (r >= 0)
		r = sd_bus_set_fd(*bus, far, fd);
	if (r < 0) {
		close(far);
		close(fd);
		return r;
	}
	r = sd_bus_set_server(*bus, true, id);
	if (r >= 0) /* who it is, the kernel has told us; at the other end of the pair are we */
		r = sd_bus_set_anonymous(*bus, true);
	if (r >= 0)
		r = sd_bus_set_sender(*bus, BUS_NAME);
	if (r >= 0)
		r = sd_bus_start(*bus);
	return r < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)) == 0 ? r : -errno;
}

/* By the words that D-Bus has for who is not let in: hung up on without any, a client takes
   us for dead. sd-bus looks at none of them before there is one for each line it sends. */
static void turn_away(int fd)
{
	static const char words[] = "REJECTED\r\nERROR\r\nERROR\r\n";

	(void)send(fd, words, sizeof(words) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	reaper_close(fd);
}

/* Takes fd, in any case. */
static int admit(struct control *control, int fd, uid_t uid)
{
	int pair[2] = { -1, -1 }, input = fcntl(fd, F_DUPFD_CLOEXEC, 0), r;
	struct endpoint *endpoint;
	sd_bus *bus = NULL;

	if (input < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
		r = -errno;
		safe_close(input);
		close(fd);
		return r;
	}
	r = open_peer(pair[1], fd, &bus);
	if (r < 0)
		sd_bus_unref(bus);
	endpoint = r < 0 ? NULL : endpoint_new(control, bus, true, uid);
	if (!endpoint) {
		close(input);
		close(pair[0]);
		return r < 0 ? r : -errno;
	}
	r = take_input(endpoint, input, pair[0]);
	if (r < 0)
		endpoint_free(endpoint);
	return r;
}

static void on_peer(void *ctx, int fd)
{
	struct control *control = ctx;
	struct ucred cred;
	socklen_t size = sizeof(cred);
	int r;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0 ||
	    !room_for(control, cred.uid)) {
		turn_away(fd);
		return;
	}
	r = admit(control, fd, cred.uid);
	if (r < 0)
		log_debug("a connection to control.sock failed: %s", strerror(-r));
}

static int listen_on(struct control *control, int fd, const char *unlink_path)
{
	control->listener = listener_new(control->event, fd, unlink_path, on_peer, control);
	return control->listener ? 0 : -errno;
}

static int listen_here(struct control *control)
{
	/* A worker before us may have made it. */
	int fd = kept_fd(CONTROL_SOCKET_KEPT);

	if (fd < 0)
		fd = listener_bind(control->path, SOCK_STREAM);
	if (fd < 0)
		return fd;
	(void)kept_set_fd(CONTROL_SOCKET_KEPT, fd);
	return listen_on(control, fd, control->path);
}

static int on_taken(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct control *control = userdata;
	int r = listen_here(control);

	if (r < 0 && sd_event_source_set_time_relative(source, TAKEN_USEC) >= 0)
		return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
	control->taken = sd_event_source_disable_unref(source);
	return 0;
}

int peer_start(struct control *control, const char *path, int fd)
{
	int r;

	control->path = path;
	if (fd >= 0)
		return listen_on(control, fd, NULL);
	r = listen_here(control);
	if (r < 0) {
		log_error("%s: %s", path, strerror(-r));
		(void)sd_event_add_time_relative(control->event, &control->taken, CLOCK_MONOTONIC, TAKEN_USEC, 0,
						 on_taken, control);
	}
	return r;
}
