/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ranges: a set of address ranges, sorted, disjoint, adjacent ones joined.
 * Page-aligned byte addresses, end exclusive. Not synchronized.
 */
#ifndef USWAP_PROC_RANGES_H
#define USWAP_PROC_RANGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct range {
	uint64_t start;
	uint64_t end;
};

struct ranges {
	struct range *v;
	size_t nr;
	size_t room;
	uint64_t changes; /* of a set: raised by each */
};

void ranges_deinit(struct ranges *set);
/* 0 or -ENOMEM (nothing changed). */
int ranges_add(struct ranges *set, uint64_t start, uint64_t end);
int ranges_remove(struct ranges *set, uint64_t start, uint64_t end);
int ranges_copy(struct ranges *to, const struct ranges *from);
/* The range that holds address, or NULL. */
const struct range *ranges_find(const struct ranges *set, uint64_t address);
bool ranges_cover(const struct ranges *set, uint64_t start, uint64_t end);
/* The first range that ends after address, or NULL. */
const struct range *ranges_after(const struct ranges *set, uint64_t address);

/*
 * A bag: the same struct, not sorted, in which ranges may overlap. Don't mix
 * with the functions above.
 */
int ranges_bag_add(struct ranges *bag, uint64_t start, uint64_t end);
/* Takes out the first stretch of [start, end) that is in the bag, once: the
   overlap with the range that reaches furthest down. False if there is none. */
bool ranges_bag_take(struct ranges *bag, uint64_t start, uint64_t end, struct range *taken);
uint64_t ranges_bytes(const struct ranges *set);

#endif
