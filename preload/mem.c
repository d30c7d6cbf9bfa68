/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Even freestanding code may be compiled into calls of memcpy and memset.
 * The C library's must not be called (they are IFUNCs bound through a PLT, and
 * the mover has no thread-local storage of its own), so these stand in: hidden
 * in the export map, and in a form that no compiler turns into a call of
 * itself.
 */
#include "sys.h"

void *memcpy(void *to, const void *from, size_t n)
{
	void *ret = to;
#if defined(__x86_64__)
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
#else
	unsigned char *t = to;
	const unsigned char *f = from;

	while (n--) {
		*t++ = *f++;
		__asm__ volatile("" ::: "memory");
	}
#endif
	return ret;
}

void *memset(void *to, int byte, size_t n)
{
	void *ret = to;
#if defined(__x86_64__)
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(byte) : "memory");
#else
	unsigned char *t = to;

	while (n--) {
		*t++ = (unsigned char)byte;
		__asm__ volatile("" ::: "memory");
	}
#endif
	return ret;
}
