/* Epochs (src/sync/epoch.h): a model that spin searches to the end. With one of the switches below a part of the
 * protocol is left out, and spin must find an error. check.sh runs it.
 *
 * Two readers register, enter sections, look for an object, use it, leave, and deregister. The first one's sections
 * nest, and a signal handler, with a section of its own, may interrupt an entry. A retiring thread makes the object
 * unreachable, stamps it, frees it when the stamp has passed, and uses it again. Pollers begin and end grace periods,
 * one at a time since they hold a lock. Why it works stands at the head of src/sync/epoch.c; here a stamp passes at
 * once if nobody is registered, and a grace period ends without a membarrier if all words show that their readers
 * have entered since it began.
 *
 * What the model has: the readers' stores wait in store buffers until a step of `processor`, a fence, a locked
 * instruction or the membarrier, which comes to one thread after the other. What a reader stores without a fence goes
 * to one word, its own, so no machine changes the order. It makes its loads in the program's order. WEAK: the second
 * one may also load the number for its next section before it looks for the object in this one, as weak machines do;
 * not past a fence or a membarrier, where such loads are thrown away. (Without the handler, to keep the search
 * short.) What holds the two loads of a section in order is an acquire, what keeps them before its end a release:
 * NO_ACQUIRE and NO_RELEASE are what weak machines do without them. The retiring thread and the poller make fences
 * behind their stores, so these go straight to memory; without the fence they come behind the loads that follow.
 * FENCES: the kernel has no membarrier, and readers make a fence each.
 *
 * Numbers of grace periods are modulo NUMBERS, and compared so: a is not older than b where a - b, modulo NUMBERS, is
 * less than half. The run begins just below the wrap. This takes for granted that nobody stands still, with a number
 * in its hands, in its word or with its object, while more than LAG grace periods begin: none begins before. (The
 * library's numbers have 47 bits: half of them last 2,000 years.) FEW_BITS lets threads stand still for as long, and
 * compares a bit less.
 *
 * What is checked: no reader uses the object while it is free (`use`); and what is retired is freed at last if
 * readers leave their sections: nothing goes on for ever without frees. (For this SMALL, one reader, is enough; who
 * registers and deregisters without end could keep pollers out.)
 *
 * WEAK, FENCES, and both must pass. What must fail:
 *     NO_MEMBARRIER     no membarrier
 *     LOOK_FIRST        the poller looks at the readers, and then makes the membarrier
 *     OLD_MEMBARRIER    the last grace period's membarrier is taken for this one's
 *     OUTSIDE_IS_DONE   who is outside is passed over without a membarrier, like one that has entered since
 *     DONE_TOO_EARLY    who has entered in the grace period before is passed over like one that has entered since
 *     SHORT             stamps are one grace period short
 *     NO_STAMP_FENCE    no fence between making the object unreachable and stamping it
 *     NO_COUNT_FENCE    a registering reader makes none between counting itself and looking for the object
 *     NO_COUNT_RELEASE  who deregisters may be counted down before its last section is over
 *     FLAT              leaving an inner section leaves the outer one
 *     FEW_BITS          numbers are too short for how long threads stand still
 *     NO_ACQUIRE        entering does not acquire
 *     NO_RELEASE        leaving does not release
 *   with FENCES:
 *     NO_ENTER_FENCE    readers make none
 *     NO_LOOK_FENCE     the poller makes none between beginning a grace period and looking at the readers */

#define NUMBERS 4
#define LAG 2 /* at most half of them */

#ifdef FEW_BITS
#define COMPARED (NUMBERS / 2)
#else
#define COMPARED NUMBERS
#endif

#define NEXT(number) (((number) + 1) % NUMBERS)
#define DISTANCE(from, to) (((to) + NUMBERS - (from)) % NUMBERS)
#define NOT_OLDER(number, than) (DISTANCE(than, number) % COMPARED < COMPARED / 2)

byte started = NUMBERS - 1;
byte completed = NUMBERS - 1;
byte registered; /* how many readers are */
bool reachable;  /* can the object be found? */

/* A reader's word: the number that it has entered with, and the depth of nesting; OUT: not registered. */
#define NONE NUMBERS
#define WORD(number, depth) ((number) * 4 + (depth))
#define NUMBER(word) ((word) / 4)
#define DEPTH(word) ((word) % 4)
#define OUT WORD(NONE, 0)
byte section[2] = OUT;

byte stamp = NONE; /* of the object, while it waits */

bool locked; /* by a poller */
#ifdef FENCES
bool barrier_made = true; /* by whoever is outside */
#else
bool barrier_made; /* for the grace period under way */
#endif

/* No part of the protocol: is the object free, and which numbers have readers in their hands? */
bool is_free = true;
byte entered[2] = NONE;
byte by_handler = NONE;
byte early[2] = NONE;

/* -- processors -------------------------------------------------------------------------------------------------- */

/* Their store buffers, of one word. (More of them would do no more harm: a reader's older word, still in memory, ends
 * no grace period that the younger ones do not end.) */
#define EMPTY OUT
byte buffer[2] = EMPTY;

inline write_out(reader_)
{
    section[reader_] = buffer[reader_];
    buffer[reader_] = EMPTY
}

/* A fence, as a part of a step. */
inline write_out_all(reader_)
{
    if
    :: buffer[reader_] != EMPTY -> write_out(reader_)
    :: else
    fi;
    early[reader_] = NONE
}

/* One for each reader, so that no store waits for ever. */
proctype processor(byte me)
{
end:
    do
    :: d_step { buffer[me] != EMPTY -> write_out(me) }
    od
}

/* -- readers ----------------------------------------------------------------------------------------------------- */

/* Any time after the object was found; only the last use of all counts. */
inline use(found_)
{
    assert(!found_ || !is_free);
    found_ = false
}

inline store_word(word)
{
    d_step { buffer[me] == EMPTY -> buffer[me] = word }
}

inline enter_with(number_)
{
#if defined(FENCES) && !defined(NO_ENTER_FENCE)
    d_step {
        write_out_all(me);
        section[me] = WORD(number_, 1)
    }
#else
    store_word(WORD(number_, 1))
#endif
}

inline leave(number_, found_)
{
    d_step {
        buffer[me] == EMPTY;
#ifndef NO_RELEASE
        use(found_);
#endif
        buffer[me] = WORD(number_, 0);
        number_ = NONE
    }
#ifdef NO_RELEASE
    d_step { use(found_) }
#endif
}

/* The number that an interrupted entry stores afterwards may be older than the one of the handler's section. */
inline handle_signal()
{
    by_handler = started;
    enter_with(by_handler);
    found = reachable;
    leave(by_handler, found)
}

inline load_number()
{
    if
    :: d_step { early[me] == NONE -> entered[me] = started }
#ifdef WEAK
    :: d_step {
        early[me] != NONE -> entered[me] = early[me];
        early[me] = NONE
    }
#endif
    fi
}

inline load_number_early()
{
#ifdef WEAK
    if
    :: me == 1 -> early[me] = started
    :: true
    fi
#else
    skip
#endif
}

#ifdef FLAT
#define OUTER 0
#else
#define OUTER 1
#endif

/* What the inner section has found the outer one goes on using. */
inline nest()
{
    store_word(WORD(entered[me], 2));
    found = reachable;
    store_word(WORD(entered[me], OUTER))
}

#ifdef NO_ACQUIRE
#define FIND_EARLY found = reachable
#define FIND true
#else
#define FIND_EARLY true
#define FIND found = reachable
#endif

/* Registering happens under the lock, so that no poller sees half of it. */
inline register()
{
    d_step {
        !locked -> section[me] = WORD(started, 0);
#ifndef NO_COUNT_FENCE
        registered++
#endif
    }
}

inline deregister()
{
    d_step {
        !locked -> section[me] = OUT;
        buffer[me] = EMPTY;
        early[me] = NONE;
#ifndef NO_COUNT_FENCE
        registered--
#endif
    }
}

proctype reader(byte me)
{
    bool found;

    do
    :: register();
        do
        :: FIND_EARLY;
            load_number();
            do
#ifndef WEAK
            :: me == 0 -> handle_signal()
#endif
            :: enter_with(entered[me]); break
            od;
            load_number_early();
            if
            :: FIND
            :: me == 0 -> nest()
            fi;
#ifdef NO_COUNT_FENCE
            registered++;
#endif
#ifdef NO_COUNT_RELEASE
            registered--;
#endif
            leave(entered[me], found)
#ifdef NO_COUNT_FENCE
            ;
            registered--
#endif
#ifdef NO_COUNT_RELEASE
            ;
            registered++
#endif
        :: deregister(); break
        od
    od
}

/* -- pollers ----------------------------------------------------------------------------------------------------- */

#define UNDER_WAY (started != completed)

/* More than LAG grace periods, with the one that would begin now. NONE is none. */
#define TOO_OLD(number) ((number) != NONE && DISTANCE(number, NEXT(started)) > LAG)
#define LAGS(reader) \
    (TOO_OLD(NUMBER(section[reader])) || TOO_OLD(NUMBER(buffer[reader])) || TOO_OLD(entered[reader]) || \
    TOO_OLD(early[reader]))
#define STAMP_LAGS (stamp != NONE && DISTANCE(stamp, NEXT(started)) >= NUMBERS / 2)
#define NOBODY_LAGS (!LAGS(0) && !LAGS(1) && !TOO_OLD(by_handler) && !STAMP_LAGS)

inline begin()
{
    d_step {
        !locked && (UNDER_WAY || NOBODY_LAGS);
        locked = true;
        if
        :: UNDER_WAY -> number = started
        :: else -> number = NEXT(started);
#if !defined(FENCES) && !defined(OLD_MEMBARRIER)
            barrier_made = false;
#endif
#ifndef NO_LOOK_FENCE
            started = number
#endif
        fi
    }
}

#ifdef DONE_TOO_EARLY
#define SINCE DISTANCE(1, number)
#else
#define SINCE number
#endif

#ifdef OUTSIDE_IS_DONE
#define IS_KNOWN true
#else
#define IS_KNOWN barrier_made
#endif

inline look_at(reader_)
{
    d_step {
        if
        :: section[reader_] == OUT
        :: section[reader_] != OUT && NOT_OLDER(NUMBER(section[reader_]), SINCE) /* it has entered since */
        :: else ->
            if
            :: DEPTH(section[reader_]) > 0 -> inside = true
            :: DEPTH(section[reader_]) == 0 && !IS_KNOWN -> unknown = true
            :: else
            fi
        fi
    }
}

inline membarrier()
{
#ifndef NO_MEMBARRIER
    d_step { write_out_all(0) }
    d_step { write_out_all(1) }
#endif
    d_step {
        barrier_made = true;
        unknown = false
    }
}

inline end()
{
    d_step {
        if
        :: !inside && !unknown ->
#ifdef NO_LOOK_FENCE
            started = number;
#endif
            completed = number
        :: else
        fi;
        number = 0;
        inside = false;
        unknown = false;
        locked = false
    }
}

proctype poller()
{
    byte number;
    bool inside, unknown;

    do
    :: begin();
        look_at(0);
        look_at(1);
#ifndef FENCES
        if
        :: unknown && !inside ->
            membarrier();
#ifndef LOOK_FIRST
            look_at(0);
            look_at(1)
#endif
        :: !unknown || inside
        fi;
#endif
        end()
    od
}

/* -- the retiring thread ----------------------------------------------------------------------------------------- */

inline publish()
{
    d_step {
        is_free = false;
        reachable = true
    }
}

inline free()
{
    d_step {
        stamp == NONE || NOT_OLDER(completed, stamp);
        is_free = true;
        stamp = NONE
    }
}

#ifdef SHORT
#define STAMP started
#else
#define STAMP NEXT(started)
#endif

/* NONE: nobody is there to wait for. */
inline stamp_it()
{
    if
    :: registered == 0
    :: registered > 0; stamp = STAMP
    fi
}

proctype retirer()
{
    do
    :: publish();
#ifdef NO_STAMP_FENCE
        stamp_it();
        reachable = false;
#else
        reachable = false;
        stamp_it();
#endif
progress:
        free()
    od
}

init
{
    atomic {
        run processor(0);
#ifndef SMALL
        run processor(1);
        run reader(1);
#endif
        run reader(0);
        run poller();
        run retirer()
    }
}
