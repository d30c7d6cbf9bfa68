/* SPDX-License-Identifier: GPL-2.0-or-later */
/* table: rows of text with columns as wide as they need to be. */
#ifndef USWAP_CTL_TABLE_H
#define USWAP_CTL_TABLE_H

#include <stdbool.h>
#include <stddef.h>

#define TABLE_COLUMNS 16

struct table {
	unsigned columns;
	unsigned right; /* bit i: column i is aligned to the right */
	size_t cells, room;
	char **cell;
};

/* Appends a cell, row by row. Out of memory ends the program. */
void table_add(struct table *table, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
void table_print(const struct table *table, const char *indent);
void table_deinit(struct table *table);

#endif
