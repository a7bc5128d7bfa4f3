/* Retired magazines and the queue (src/deferred/retire.h, src/deferred/defer_queue.h): a model that spin searches to
 * the end. With one of the switches below a part of the protocol is left out, and spin must find an error. check.sh
 * runs it.
 *
 * The owner makes an object unreachable and pushes it to its retired magazine; a full one it puts on the queue. A
 * taker takes what stands in a magazine that does not fill up, also while a push is under way, and puts that on the
 * queue. There it is stamped, and waits in the segment of that stamp until the stamp has passed. A reader looks for
 * the object, and uses it.
 *
 * Why it works
 *  1. `top` is stored with a release (on x86 any store in the program's order is one): what the taker finds below top
 *     is in its slot, and was made unreachable for all, before the taker stamps it. That includes the object of a
 *     push that was under way at the membarrier and has ended since.
 *  2. The taker moves bottom and limit to the top that it has seen, and leaves top to the owner. A push under way
 *     stores its object there and raises top: one round more, for the next time. It is the last, since the slot is
 *     closed for the one after it.
 *  3. Stamps that have not passed are that of the grace period under way and the next one. Who puts something into a
 *     segment with another stamp finds that one passed.
 *
 * What the model has: the owner's stores on its hot path wait in a store buffer (x86: first in, first out; WEAK: in
 * any order, but for those to one word and those that release) until a step of `processor`, or the membarrier. That
 * its slow path and a taker are never both on the block is what take.pml shows: here `in_slow_path` and `taken` are
 * exact, and what a slow path does is one step. When a grace period has passed is what epoch.pml shows: here it
 * passes when the reader is seen outside, or has left. Numbers of grace periods are modulo NUMBERS; one begins where
 * a stamp wants it.
 *
 * What is checked: the reader uses no object that is free; nothing is taken or put on the queue that is free, or
 * twice, or not in its slot yet; and all is freed at last: nothing goes on for ever without frees.
 *
 * WEAK also must pass. What must fail:
 *     STAMP_FIRST       the taker stamps, then looks at the magazine
 *     STAMP_AT_OPEN     a magazine is stamped with its first round
 *     TOP_SET_BACK      the taker sets top back, too
 *     ONE_SEGMENT       the queue has one segment
 *   with WEAK:
 *     NO_RELEASE        the store of top does not release */

#ifdef SMALL
#define OBJECTS 2
#else
#define OBJECTS 3
#endif
#define ROUNDS (OBJECTS - 1) /* of a magazine */
#define NUMBERS 8

#ifdef ONE_SEGMENT
#define SEGMENTS 1
#else
#define SEGMENTS 4
#endif

#define NEXT(number) (((number) + 1) % NUMBERS)
#define PASSED(stamp) ((completed + NUMBERS - (stamp)) % NUMBERS < NUMBERS / 2)

/* Objects are bits, and a set of them is a byte. */
#define ALL ((1 << OBJECTS) - 1)
#define LOWEST(set) ((set) & -(set))

/* Words of memory, by number; 0 is none. */
#define REACHABLE 1 /* the object that can be found; 0: none */
#define TOP 2
#define SLOT 3
byte memory[SLOT + ROUNDS];

/* The taker writes them, and the slow path: each while the other is away. */
byte bottom;
byte limit; /* at first there is no magazine */
bool taken;
bool in_slow_path;

byte stamps[SEGMENTS];
byte segments[SEGMENTS]; /* sets of objects */

byte started = NUMBERS - 1;
byte completed = NUMBERS - 1;
bool inside;   /* a section */
bool holds_up; /* the grace period under way */

/* No part of the protocol: the objects that are free. */
byte free = ALL;

#ifdef ONE_SEGMENT
#define SEGMENTS_BEHIND 0
#else
#define SEGMENTS_BEHIND segments[1] | segments[2] | segments[3]
#endif

/* -- the queue --------------------------------------------------------------------------------------------------- */

#ifdef STAMP_AT_OPEN
byte stamp_at_open;
#define STAMP stamp_at_open
#else
#define STAMP NEXT(started)
#endif

/* As a part of a step, since a lock is held. */
inline put_on_queue(set_, stamp_)
{
    assert((set_ & (free | segments[0] | SEGMENTS_BEHIND)) == 0);
    if
    :: stamps[stamp_ % SEGMENTS] != stamp_ ->
        free = free | segments[stamp_ % SEGMENTS];
        segments[stamp_ % SEGMENTS] = 0
    :: else
    fi;
    segments[stamp_ % SEGMENTS] = segments[stamp_ % SEGMENTS] | set_;
    stamps[stamp_ % SEGMENTS] = stamp_
}

inline ripen(i)
{
    d_step {
        segments[i] != 0 && PASSED(stamps[i]) -> free = free | segments[i];
        segments[i] = 0;
        stamps[i] = 0
    }
}

#define WANTS(i) (segments[i] != 0 && stamps[i] == NEXT(started))
#ifdef ONE_SEGMENT
#define WANTED WANTS(0)
#else
#define WANTED (WANTS(0) || WANTS(1) || WANTS(2) || WANTS(3))
#endif

active proctype poller()
{
end:
    do
    :: d_step {
        started == completed && WANTED -> started = NEXT(started);
        holds_up = inside
    }
    :: d_step { started != completed && !holds_up -> completed = started }
    :: ripen(0); progress0: skip
#ifndef ONE_SEGMENT
    :: ripen(1); progress1: skip
    :: ripen(2); progress2: skip
    :: ripen(3); progress3: skip
#endif
    od
}

active proctype reader()
{
    byte found;

    do
    :: inside = true;
        found = memory[REACHABLE];
        d_step {
            assert((found & free) == 0);
            found = 0;
            inside = false;
            holds_up = false
        }
    od
}

/* -- the owner's processor --------------------------------------------------------------------------------------- */

/* Its store buffer, the oldest store first; unused entries are 0. */
byte where[3];
byte what[3];

#define BUFFERED(i) (where[i] != 0)

/* What the owner loads: the youngest store in its buffer, or else memory. */
#define SEEN(word) \
    (where[2] == (word) -> what[2] : \
    (where[1] == (word) -> what[1] : \
    (where[0] == (word) -> what[0] : memory[word])))

inline store(word, value)
{
    d_step {
        !BUFFERED(2);
        if
        :: !BUFFERED(0) -> where[0] = word; what[0] = value
        :: BUFFERED(0) && !BUFFERED(1) -> where[1] = word; what[1] = value
        :: else -> where[2] = word; what[2] = value
        fi
    }
}

inline write_out(i)
{
    memory[where[i]] = what[i];
    if
    :: i < 1 -> where[0] = where[1]; what[0] = what[1]
    :: else
    fi;
    if
    :: i < 2 -> where[1] = where[2]; what[1] = what[2]
    :: else
    fi;
    where[2] = 0;
    what[2] = 0
}

inline write_out_all()
{
    do
    :: BUFFERED(0) -> write_out(0)
    :: else -> break
    od
}

#ifdef NO_RELEASE
#define RELEASES(i) false
#else
#define RELEASES(i) (where[i] == TOP)
#endif

active proctype processor()
{
end:
    do
    :: d_step { BUFFERED(0) -> write_out(0) }
#ifdef WEAK
    :: d_step { BUFFERED(1) && where[1] != where[0] && !RELEASES(1) -> write_out(1) }
    :: d_step { BUFFERED(2) && where[2] != where[0] && where[2] != where[1] && !RELEASES(2) -> write_out(2) }
#endif
    od
}

/* -- taking rounds out of the magazine --------------------------------------------------------------------------- */

/* As a part of a step: those from bottom up to top_. Who finds one there afterwards is wrong. */
inline take_rounds(set_, top_)
{
    do
    :: bottom < top_ ->
        assert(memory[SLOT + bottom] != 0 && (memory[SLOT + bottom] & set_) == 0);
        set_ = set_ | memory[SLOT + bottom];
        memory[SLOT + bottom] = 0;
        bottom++
    :: else -> break
    od
}

/* -- the owner --------------------------------------------------------------------------------------------------- */

inline make_reachable()
{
    d_step {
        free != 0 && !BUFFERED(2) -> object = LOWEST(free);
        free = free & ~object
    }
    store(REACHABLE, object)
}

/* A full magazine goes to the queue, and an empty one comes; one that a taker has closed is opened. */
inline push_slowly()
{
    d_step { !taken -> in_slow_path = true }
    d_step {
        write_out_all();
        top = memory[TOP];
        is_full = (top - bottom == ROUNDS);
        take_rounds(set, top);
        if
        :: is_full -> put_on_queue(set, STAMP); set = 0
        :: else
        fi;
        is_full = false;
        bottom = 0;
        limit = ROUNDS;
        top = 0;
        set = set | object;
        do
        :: set != 0 ->
            memory[SLOT + top] = LOWEST(set);
            set = set & ~LOWEST(set);
            top++
        :: else -> break
        od;
        memory[TOP] = top;
#ifdef STAMP_AT_OPEN
        stamp_at_open = NEXT(started);
#endif
        top = 0;
        in_slow_path = false
    }
}

/* Two loads that a weak machine may make in any order. */
inline load_top_and_limit()
{
    if
    :: top = SEEN(TOP); limit_seen = limit
#ifdef WEAK
    :: limit_seen = limit; top = SEEN(TOP)
#endif
    fi
}

inline push()
{
    if
    :: taken -> push_slowly()
    :: !taken -> /* this may change from here on: the operation is under way */
        load_top_and_limit();
        if
        :: top >= limit_seen -> push_slowly()
        :: top < limit_seen ->
            store(SLOT + top, object);
            store(TOP, top + 1)
        fi
    fi;
    d_step {
        object = 0;
        top = 0;
        limit_seen = 0
    }
}

active proctype owner()
{
    byte object, top, limit_seen, set;
    bool is_full;

end:
    do
    :: make_reachable();
        store(REACHABLE, 0);
        push()
    od
}

/* -- the taker --------------------------------------------------------------------------------------------------- */

inline take()
{
    top = memory[TOP];
    d_step {
        take_rounds(set, top);
#ifdef STAMP_FIRST
        stamp = stamp_at_first;
#else
        stamp = STAMP;
#endif
        if
        :: set != 0 -> put_on_queue(set, stamp); set = 0
        :: else
        fi;
        stamp = 0;
        top = 0
    }
#ifdef TOP_SET_BACK
    d_step {
        bottom = 0;
        memory[TOP] = 0
    }
#endif
    limit = bottom
}

/* What is open, or has rounds, it takes at any time. */
active proctype taker()
{
    byte top, set, stamp;
#ifdef STAMP_FIRST
    byte stamp_at_first;
#endif

end:
    do
    :: d_step { memory[TOP] > bottom || limit > bottom -> taken = true }
#ifdef STAMP_FIRST
        stamp_at_first = NEXT(started);
#endif
        d_step { write_out_all() } /* the membarrier */
        if
        :: in_slow_path
        :: !in_slow_path -> take()
        fi;
        taken = false
    od
}
