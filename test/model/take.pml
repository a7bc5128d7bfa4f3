/* Taking rounds out of another thread's magazine (src/thread/ownership.h): a model that spin searches to the end. With
 * one of the switches below a part of the protocol is left out, and spin must find an error. check.sh runs it.
 *
 * The owner's words are `hot` (what its hot paths start from: BLOCK, its own block, or one of three places in a block
 * of zeros where every magazine is both empty and full: NOTHING in its slow path, TAKEN, DRY) and `busy`. Its
 * magazine is slots[bottom ... top - 1]. A pop or a push moves top; the slow path may change everything.
 *
 * Why it works
 *  1. The taker exchanges hot for TAKEN, then issues a membarrier: a full barrier at some point P of the owner's
 *     program. What the owner stored before P the taker sees from then on; what the owner loads after P sees TAKEN.
 *  2. A hot operation loads hot once, at its start. So of those on the block at most one is unfinished at P; it may
 *     stay so for long, through later takes too. It moves top by one, and touches the slot at top - 1 or the one at
 *     top, whichever of its two values of top the taker has read. Everything below top - 1 is the taker's; the round
 *     at top - 1 stays, and for that operation the raised bottom is as good as the old one.
 *  3. A slow path sets busy, then loads hot, and backs out if it is TAKEN. If it loaded hot before P, it stored
 *     busy before P as well: the taker sees that and gives up. If it sees busy 0 again, the owner has left, and has
 *     overwritten TAKEN before it did. So a TAKEN that is still there after busy was found 0 says that
 *     no slow path is on the block, and that none will come.
 *  4. Hot is given back by a compare-exchange, since an owner that was found busy may have written over TAKEN.
 *  5. LIMITED: pops of a limited cache are marked. A pop that has loaded BLOCK before P has set its mark before P, too.
 *     So a taker that finds no mark after P sees all that the pop has done: no pop is under way, and it takes the top
 *     round as well. A push may still be: on a weak machine the taker may see its top and not yet its round. There it
 *     issues a second membarrier once it has read top.
 *  6. Only who holds an object writes its key (src/slab/key.h): a push sets it first of all, a pop clears it last of
 *     all. So by 2 and 5 what the taker takes has its key, and no store of the owner's to it is still on its way.
 *  7. EXCHANGE (src/thread/park.h): the round R at top - 1 is taken as well. A round N of the depot takes its place, and
 *     after a second membarrier, at P2, the taker reads top again. A pop stores top, and then loads its round. If top is
 *     no less than before, a pop under way does both after P2, and gets N: R is the taker's. If it is less, nobody can
 *     tell which of the two the pop has got, and neither is used again. On a weak machine one more membarrier comes
 *     before the exchange, for 5's reason: a push's store of its round could come over N. A round that has come later
 *     than that stays.
 *
 * What the model has: one owner and one taker, each for ever; more owners would share nothing but the depot, and
 * takers come one at a time. The owner's stores wait in a store buffer (x86: first in, first out; WEAK: in any order,
 * but for those to one word and those that release) until a step of `processor`, a locked instruction or the
 * membarrier. Its loads happen in the program's order: on a weak machine the address dependency on hot sees to that,
 * and an acquire in the slow path. The taker's stores go straight to memory: what it does after them is a locked
 * instruction, so a store buffer would only make it slower. The depot stands for wherever any thread could get a
 * round from. A magazine is full by its top, not by the word there, which the owner alone writes. A signal handler
 * comes between any two steps of the owner with a dry nolock call, and with a malloc or free while busy is set. Left
 * out are the dry call with EXCHANGE, as a parked thread is like a dry one, previous magazines, which only slow paths
 * touch (see 3), threads that come and go, and the destruction of a cache, which nobody may be using. With WEAK
 * EXCHANGE there are but two rounds, to keep the search short.
 *
 * What is checked: a round has one holder (the asserts in pop_round and take), what is taken has its key, and keeps
 * it (in take), none is lost (count_rounds), taker and slow path are never both on the block (`inside`, `taking`), a
 * handler's malloc never meets the block while a slow path works on it, no round of a limited cache is left behind
 * unless a pop is under way at P or begins after it (`popping`, `popped`), and the owner gets on: nothing goes on for
 * ever but takes and its operations. (Takes without end can starve it: it does not queue.)
 *
 * WEAK, LIMITED, EXCHANGE, and WEAK with either also must pass. What must fail:
 *     NO_MEMBARRIER     no membarrier
 *     TAKE_TOP          leaves no round behind
 *     HOT_KEPT          an owner's second pop uses the hot that it loaded for the first
 *     NO_BUSY           the taker does not look at busy
 *     NO_SECOND_LOOK    nor again at hot
 *     HOT_BEFORE_BUSY   it looks at hot, then at busy: so on a weak machine the load of busy must acquire
 *     LATE_BUSY         the owner sets busy after it has loaded hot: so a compiler must keep these two in order
 *     PLAIN_BACK        hot is given back by a plain store
 *     NO_BACK           hot is not given back where the taker gives up
 *   with WEAK:
 *     NO_RELEASE        the owner's busy = 0 does not release
 *     NO_RELEASE_BACK   the store that gives hot back does not
 *     NO_ACQUIRE        the owner's load of hot in its slow path does not acquire
 *   with LIMITED:
 *     LATE_MARK         a pop sets its mark after it has loaded hot
 *     EARLY_CLEAR       it clears the mark before it stores top
 *     MARK_KEPT         it does not clear the mark
 *     LATE_KEY          a push sets the key after it has stored top
 *     EARLY_LOOK        the taker reads the mark before the membarrier
 *     TOP_FIRST         it reads the mark after top: so on a weak machine the load of the mark must acquire
 *   with WEAK LIMITED:
 *     NO_RELEASE_MARK   the owner's store that clears the mark does not release
 *     ONE_MEMBARRIER    the taker does not issue a second membarrier
 *   with EXCHANGE:
 *     NO_BARRIER_AFTER  none comes between the exchange and the second look at top
 *     FALLEN_TOO        the round is taken even if top has become less
 *     ROUND_FIRST       a pop loads its round before it stores top
 *   with WEAK EXCHANGE:
 *     ONE_MEMBARRIER    none comes before the exchange
 *     ANY_TOP           a round is exchanged that has come after the first look at top */

#if defined(SMALL) || (defined(WEAK) && defined(EXCHANGE))
#define ROUNDS 2
#else
#define ROUNDS 3 /* and as many slots */
#endif

/* Rounds are bits, and a set of them is a byte. */
#define ALL ((1 << ROUNDS) - 1)
#define LOWEST(set) ((set) & -(set))

#if defined(TAKE_TOP)
#define LEFT_BEHIND 0
#elif defined(LIMITED)
#define LEFT_BEHIND left
#else
#define LEFT_BEHIND 1
#endif

/* Words of memory, by number; 0 is none. */
#define HOT 1
#define BUSY 2
#define MARK 3
#define BOTTOM 4
#define TOP 5
#define SLOT 6
#define LIVE (SLOT + ROUNDS) /* of each round: 0 while its object has the key */
#define LIVE_OF(round) (LIVE + (round) / 2)
byte memory[LIVE + ROUNDS];

/* Values of HOT. */
#define BLOCK 0
#define NOTHING 1
#define TAKEN 2
#define DRY 3

/* A value of BUSY and MARK: memory has 0 for it, the store buffer knows by it a store of 0 that releases. */
#define LEFT 2

/* Who has which rounds, and who is on the block: no part of the protocol. */
byte held;        /* rounds that the owner's program has */
byte depot = ALL; /* in the depot */
byte list;        /* on the taker's list */
#ifdef EXCHANGE
byte lost;        /* of which the owner may have some */
#endif
bool inside;      /* a slow path of the owner is on the block */
bool taking;      /* the taker is */
#ifdef LIMITED
bool popping;     /* a marked pop is under way */
bool popped;      /* one has been since the last membarrier */
#endif

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
        fi;
#ifdef LIMITED
        if
        :: word == MARK ->
            popping = (value == 1);
            popped = popped || popping
        :: else
        fi
#endif
    }
}

inline write_out(i)
{
    memory[where[i]] = (where[i] == BUSY || where[i] == MARK -> what[i] & 1 : what[i]);
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

#if defined(NO_RELEASE)
#define RELEASES(i) (where[i] == MARK && what[i] == LEFT)
#elif defined(NO_RELEASE_MARK)
#define RELEASES(i) (where[i] == BUSY && what[i] == LEFT)
#else
#define RELEASES(i) ((where[i] == BUSY || where[i] == MARK) && what[i] == LEFT)
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

/* A nolock call that finds its reserve dry, in a signal handler: a locked compare-exchange. */
#ifndef EXCHANGE /* a parked thread is as one that is dry, and the search shorter */
active proctype handler()
{
end:
    do
    :: d_step {
        SEEN(HOT) == BLOCK -> write_out_all();
        memory[HOT] = DRY
    }
    od
}
#endif

/* -- the owner --------------------------------------------------------------------------------------------------- */

/* The round has left the slot: whoever reads it there now is wrong. (This keeps the state space small, too.) */
inline wipe(slot)
{
    memory[slot] = 0;
    if
    :: where[0] == slot -> what[0] = 0
    :: else
    fi;
    if
    :: where[1] == slot -> what[1] = 0
    :: else
    fi;
    if
    :: where[2] == slot -> what[2] = 0
    :: else
    fi
}

inline pop_round()
{
    d_step {
        round = SEEN(SLOT + top - 1);
        assert(round != 0 && (round & (held | depot | list)) == 0);
        held = held | round;
        wipe(SLOT + top - 1)
    }
}

/* The load of the round may stand before or after the store of top. `missed`: this is for the slow path. */
inline pop_from_block()
{
    top = SEEN(TOP);
    if
    :: SEEN(BOTTOM) == top -> missed = true
    :: SEEN(BOTTOM) != top ->
#ifdef EARLY_CLEAR
        store(MARK, LEFT);
#endif
        if
#ifndef ROUND_FIRST
        :: store(TOP, top - 1); pop_round()
#endif
#if !defined(EXCHANGE) || defined(ROUND_FIRST)
        :: pop_round(); store(TOP, top - 1)
#endif
        fi;
        store(LIVE_OF(round), 1);
        round = 0
    fi;
    top = 0
}

inline pop()
{
#if defined(LIMITED) && !defined(LATE_MARK)
    store(MARK, 1);
#endif
    if
    :: SEEN(HOT) != BLOCK -> missed = true
    :: SEEN(HOT) == BLOCK ->
#ifdef LATE_MARK
        store(MARK, 1);
#endif
        pop_from_block();
#ifdef HOT_KEPT
        if
        :: true
        :: !missed -> pop_from_block()
        fi
#endif
    fi;
#if defined(LIMITED) && !defined(MARK_KEPT)
    store(MARK, LEFT)
#elif defined(MARK_KEPT)
    d_step { popping = false }
#endif
}

inline push()
{
    if
    :: SEEN(HOT) != BLOCK -> missed = true
    :: SEEN(HOT) == BLOCK ->
        top = SEEN(TOP);
        if
        :: top == ROUNDS -> missed = true
        :: else ->
            d_step {
                round = LOWEST(held);
                held = held & ~round
            }
#ifndef LATE_KEY
            store(LIVE_OF(round), 0);
#endif
            store(SLOT + top, round);
            store(TOP, top + 1);
#ifdef LATE_KEY
            store(LIVE_OF(round), 0);
#endif
            round = 0
        fi;
        top = 0
    fi
}

inline hot_call()
{
    if
    :: pop()
    :: held != 0 -> push()
    fi
}

/* While busy is set, a handler's malloc or free that misses goes to the depot directly. */
inline handler_may_call()
{
    if
    :: true
    :: hot_call(); missed = false
    fi
}

inline enter()
{
    do
    :: true ->
#ifndef LATE_BUSY
        store(BUSY, 1);
        handler_may_call();
#endif
#ifdef NO_ACQUIRE
        bottom = SEEN(BOTTOM);
#endif
        if
        :: d_step { SEEN(HOT) != TAKEN -> assert(!taking); inside = true }
            break
        :: SEEN(HOT) == TAKEN -> store(BUSY, 0) /* and waits, or not */
        fi
    od;
#ifdef LATE_BUSY
    store(BUSY, 1);
#endif
    handler_may_call();
    store(HOT, NOTHING);
#ifndef NO_ACQUIRE
    bottom = SEEN(BOTTOM);
#endif
    top = SEEN(TOP)
}

inline leave()
{
    d_step {
        assert(SEEN(HOT) == NOTHING);
        inside = false;
        bottom = 0;
        top = 0
    }
    store(HOT, BLOCK);
    handler_may_call();
    store(BUSY, LEFT)
}

/* With nobody but the owner on its block no round may be missing. */
inline count_rounds()
{
    d_step {
        round = held | depot;
        n = bottom;
        do
        :: n < top ->
            assert(SEEN(SLOT + n) != 0 && (round & SEEN(SLOT + n)) == 0);
            round = round | SEEN(SLOT + n);
            n++
        :: else -> break
        od;
#ifdef EXCHANGE
        round = round | lost;
#endif
        assert(round == ALL);
        round = 0;
        n = 0
    }
}

/* What slow paths do (refill, drain, exchange): all rounds go to the depot, and some come from there to slot 0 on. */
inline exchange_rounds()
{
    d_step {
        n = bottom;
        do
        :: n < top ->
            depot = depot | SEEN(SLOT + n);
            wipe(SLOT + n);
            n++
        :: else -> break
        od;
        n = 0
    }
    store(BOTTOM, 0);
    do
    :: depot != 0 ->
        d_step {
            round = LOWEST(depot);
            depot = depot & ~round
        }
        store(SLOT + n, round);
        round = 0;
        n++
    :: break
    od;
    store(TOP, n);
    n = 0
}

active proctype owner()
{
    byte top, bottom, round, n;
    bool missed;

    do
    :: true ->
progress:
        if
        :: hot_call()
        :: missed = true
        fi;
        if
        :: missed ->
            missed = false;
            enter();
            count_rounds();
            if
            :: true
            :: exchange_rounds()
            fi;
            leave()
        :: else
        fi
    od
}

/* -- the taker --------------------------------------------------------------------------------------------------- */

inline membarrier()
{
#ifdef NO_MEMBARRIER
    skip
#else
    d_step {
        write_out_all();
#ifdef LIMITED
        popped = popping
#endif
    }
#endif
}

/* What was stored before the top that was read is there now. On x86 it was so before. */
inline membarrier_again()
{
#if defined(WEAK) && !defined(ONE_MEMBARRIER)
    d_step {
        if
        :: !left -> write_out_all()
        :: else
        fi
    }
#else
    skip
#endif
}

inline take()
{
#if !defined(LIMITED)
    d_step {
        assert(!inside);
        taking = true;
        top = memory[TOP]
    }
#elif defined(TOP_FIRST) || defined(EARLY_LOOK)
    d_step {
        assert(!inside);
        taking = true;
        top = memory[TOP]
    }
#ifdef TOP_FIRST
    left = memory[MARK];
#endif
    membarrier_again();
#else
    d_step {
        assert(!inside);
        taking = true;
        left = memory[MARK]
    }
    top = memory[TOP];
    membarrier_again();
#endif
    bottom = memory[BOTTOM];
    do
    :: bottom + LEFT_BEHIND < top ->
        d_step {
            round = memory[SLOT + bottom];
            assert(round != 0 && (round & (held | depot | list)) == 0);
            assert(memory[LIVE_OF(round)] == 0);
            assert(where[0] != LIVE_OF(round) && where[1] != LIVE_OF(round) && where[2] != LIVE_OF(round));
            list = list | round;
            memory[SLOT + bottom] = 0; /* as in wipe */
            bottom++;
            round = 0
        }
    :: else -> break
    od;
#ifdef LIMITED
    assert(popped || bottom == top);
    left = false;
#endif
#if defined(EXCHANGE) && !defined(ANY_TOP)
    none = (bottom == top);
#endif
    top = 0
}

#ifdef EXCHANGE
/* `bottom` is the place of the top round. `none`: there was none. */
inline exchange()
{
#if defined(WEAK) && !defined(ONE_MEMBARRIER)
    membarrier();
#endif
    if
    :: !none && memory[TOP] > bottom && depot != 0 ->
        d_step {
            stand_in = LOWEST(depot);
            depot = depot & ~stand_in
        }
        round = memory[SLOT + bottom];
        memory[SLOT + bottom] = stand_in;
#ifndef NO_BARRIER_AFTER
        membarrier();
#endif
        d_step {
            if
#ifndef FALLEN_TOO
            :: memory[TOP] <= bottom -> lost = lost | round | stand_in
            :: else ->
#else
            :: true ->
#endif
                assert(round != 0 && (round & (held | depot | list)) == 0);
                assert(memory[LIVE_OF(round)] == 0);
                assert(where[0] != LIVE_OF(round) && where[1] != LIVE_OF(round) && where[2] != LIVE_OF(round));
                list = list | round
            fi;
            round = 0;
            stand_in = 0
        }
    :: else
    fi;
    none = false
}
#endif

/* From now on the rounds are anyone's. */
inline raise_bottom()
{
    d_step {
        memory[BOTTOM] = bottom;
        bottom = 0;
        depot = depot | list;
        list = 0;
        taking = false
    }
}

inline give_back()
{
    d_step {
        if
#ifdef PLAIN_BACK
        :: true -> memory[HOT] = was
#else
        :: memory[HOT] == TAKEN -> memory[HOT] = was
        :: else
#endif
        fi
    }
}

inline finish()
{
#ifdef NO_RELEASE_BACK
    if
    :: raise_bottom(); give_back()
    :: give_back(); raise_bottom()
    fi
#else
    raise_bottom();
    give_back()
#endif
}

active proctype taker()
{
    byte was, top, bottom, round;
#ifdef LIMITED
    bool left;
#endif
#ifdef EXCHANGE
    byte stand_in;
    bool none;
#endif

    do
    :: break
    :: d_step {
        memory[HOT] == BLOCK || memory[HOT] == DRY;
        was = memory[HOT];
        memory[HOT] = TAKEN
        }
progress:
#ifdef EARLY_LOOK
        left = memory[MARK];
#endif
        membarrier();
#ifdef HOT_BEFORE_BUSY
        if
        :: memory[HOT] != TAKEN -> goto next
        :: else
        fi;
#endif
#ifndef NO_BUSY
        if
        :: memory[BUSY] != 0 ->
#ifndef NO_BACK
            give_back();
#endif
            goto next
        :: else
        fi;
#endif
#if !defined(HOT_BEFORE_BUSY) && !defined(NO_SECOND_LOOK)
        if
        :: memory[HOT] != TAKEN -> goto next
        :: else
        fi;
#endif
        take();
#ifdef EXCHANGE
        exchange();
        was = DRY;
#endif
        finish();
next:
        was = 0
    od
}
