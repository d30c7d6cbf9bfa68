/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Dictionaries that hosts with a common key have in common; under the carry lock. */
#ifndef USWAP_FLOW_BLOBSTORE_LEXICON_H
#define USWAP_FLOW_BLOBSTORE_LEXICON_H

#include "flow/blobstore_private.h"

/* Dictionaries that a batch names; pages made with others stay ours. */
#define LEXICON_NAMES 8u

struct lexicon;

/* secret stays where it is. NULL on ENOMEM. */
struct lexicon *lexicon_new(struct blobstore *bs, const void *secret, size_t len);
void lexicon_free(struct blobstore *bs, struct lexicon *lexicon);
/* Frames behind the n of a batch of ours that name the dictionaries of those, which
   are in the pool by then; the segment they come from is pinned. How many; they are
   good until the next call. */
uint32_t lexicon_name(struct blobstore *bs, struct lexicon *lexicon, struct store *store, uint32_t uid,
		      struct sealed_frame *frames, uint32_t n);
/* Our number for another host's, with a use for the caller; -1: it can't be had. */
int lexicon_find(struct blobstore *bs, struct lexicon *lexicon, struct store *store, uint32_t uid,
		 const uint8_t id[STORE_KEY]);

#endif
