// SPDX-License-Identifier: Apache-2.0
// What iscsi.c (a store on a LUN) and iscsi_command.c (the life of its commands) share. For these two only.
#ifndef STORE_ISCSI_PRIVATE_H
#define STORE_ISCSI_PRIVATE_H

#include "common/store/backend.h"
#include "common/store/lun.h"
#include "common/store/session.h"

#define COMMANDS_MAX 60 // targets commonly allow 64 at least; the rest is for pings
#define TRANSFER_MAX (1u << 20)
#define ZERO_MAX     (64u << 20) // bytes that one command zeroes, by one WRITE SAME or by many
#define ZEROS_SIZE   TRANSFER_MAX
#define EDGES        16 // blocks that are being read and merged at a time

struct edge {
    struct edge *next;
    uint8_t *memory; // one block
};

struct command {
    struct scsi_command scsi;      // first
    struct command *next;          // of the free ones, or of those that wait to be sent
    struct block_request *request; // NULL for the sync
    uint64_t rest;                 // zeroing: blocks behind these that the command goes on with
    struct edge *edge;             // a block that is read or written in part goes through here
    uint32_t skip, part_length;    // where the part lies in it
    uint8_t *part;                 // the caller's memory; NULL stands for zeros
    bool merging;                  // the read before the write
    unsigned tries;
};

struct command_list {
    struct command *head, *tail;
};

struct lun {
    struct store store; // first
    char name[512];     // the address without secrets
    uint64_t want_size;
    bool allow_larger;
    struct session *session;
    bool known; // `facts` are those of the LUN that was opened
    struct lun_facts facts;
    bool same_works, same_unmap_works, unmap_works;
    const char *trouble; // the last command's failure; NULL after a success
    uint64_t writes_ended, writes_synced;
    uint64_t sync_covers; // writes_ended when the sync was sent
    bool turning, closing;
    struct request_queue queued, flushes, syncing;
    struct command_list again; // to be sent as soon as there is a session
    struct command_list later; // to be sent at later_ns
    int64_t later_ns;          // INT64_MAX: nothing to do then
    void *zeros;               // ZEROS_SIZE bytes, never written
    uint8_t *edge_memory;
    struct edge *free_edges;
    struct command *free_commands;
    struct edge edges[EDGES];
    struct command sync;
    struct command commands[COMMANDS_MAX];
    char state[512];
};

// A free command, which becomes a part of the request; NULL: all are under way.
struct command *lun_command_take(struct lun *lun, struct block_request *request);
// Now, or when the next session is up.
void lun_command_send(struct lun *lun, struct command *command);
// All that wait in this list: `again` or `later`.
void lun_commands_send(struct lun *lun, struct command_list *list);
void lun_commands_cancel(struct lun *lun, struct command_list *list);
// Blocks that one command of this kind may cover; at least 1.
uint64_t lun_blocks_max(const struct lun *lun, enum scsi_kind kind);
// Aims a zeroing command at the first of the blocks that are left to it.
void lun_command_aim_zero(struct lun *lun, struct command *c, uint64_t lba, uint64_t left);

// Events of the session; the owner is the LUN.
void lun_command_ended(void *owner, struct scsi_command *scsi, const struct scsi_result *result);
void lun_command_returned(void *owner, struct scsi_command *scsi);
void lun_was_reset(void *owner);

#endif
