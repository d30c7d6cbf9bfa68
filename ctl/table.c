/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ctl/table.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/ctl.h"

static void out_of_memory(void)
{
	ctl_complain("out of memory");
	exit(CTL_FAILED);
}

void table_add(struct table *table, const char *format, ...)
{
	va_list ap;

	if (table->cells == table->room) {
		table->room = table->room ? table->room * 2 : 128;
		table->cell = reallocarray(table->cell, table->room, sizeof(*table->cell));
		if (!table->cell)
			out_of_memory();
	}
	va_start(ap, format);
	if (vasprintf(&table->cell[table->cells++], format, ap) < 0)
		out_of_memory();
	va_end(ap);
}

/* Of characters, not bytes. */
static unsigned width(const char *text)
{
	unsigned n = 0;

	for (; *text; text++)
		n += ((unsigned char)*text & 0xc0) != 0x80;
	return n;
}

void table_print(const struct table *table, const char *indent)
{
	unsigned widest[TABLE_COLUMNS] = { 0 };
	unsigned column, pad;

	assert(table->columns > 0 && table->columns <= TABLE_COLUMNS);
	for (size_t i = 0; i < table->cells; i++) {
		column = (unsigned)(i % table->columns);
		if (width(table->cell[i]) > widest[column])
			widest[column] = width(table->cell[i]);
	}
	for (size_t i = 0; i < table->cells; i++) {
		column = (unsigned)(i % table->columns);
		pad = widest[column] - width(table->cell[i]);
		fputs(column ? "  " : indent, stdout);
		if (table->right >> column & 1)
			printf("%*s%s", (int)pad, "", table->cell[i]);
		else if (column + 1 < table->columns)
			printf("%s%*s", table->cell[i], (int)pad, "");
		else
			fputs(table->cell[i], stdout);
		if (column + 1 == table->columns)
			putchar('\n');
	}
}

void table_deinit(struct table *table)
{
	while (table->cells)
		free(table->cell[--table->cells]);
	free(table->cell);
	*table = (struct table){ .columns = table->columns };
}
