/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the tests of the blobstore share: two users, stores, pages by number. */
#ifndef USWAP_TESTS_UNIT_BLOBS_H
#define USWAP_TESTS_UNIT_BLOBS_H

#include "backends/store.h"
#include "flow/blobstore.h"
#include "page/domain.h"

#define BLOBS_NOISE 1000000u /* pages from this number on don't compress */

extern struct domain_registry *reg;
extern struct domain *alice, *bob;
extern struct store *stores[3]; /* the test's to open; closed at the end */
extern unsigned nr_stores;
extern struct blobstore *bs;
extern struct codec *codec;

void blobs_setup(void);
/* Nothing may be left. */
void blobs_teardown(void);

struct blobstore_stats stats(void);
/* Page number n: half noise, half text, so that some 2 KiB remain. */
void make_page(unsigned char *page, uint64_t n);
enum blobstore_result try_put(struct domain *domain, uint64_t n, blob_id *id);
/* It must be STORED. */
blob_id put(struct domain *domain, uint64_t n);
/* 0 or the error; -EUCLEAN: other bytes. */
int get(struct codec *c, blob_id id, uint64_t n);
void work_all(void);
/* INV-8: charges are the bytes that live: between two calls of anything. */
void expect_charges(void);
void expect_nothing(void);

#endif
