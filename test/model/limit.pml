/* Looking for free objects at a cache's limit (src/thread/gather.c): a model that spin searches to the end. With one of
 * the switches below a part of the protocol is left out, and spin must find an error. check.sh runs it.
 *
 * A cache of LIMIT objects, all of them charged at first: one is free in the first thread's slot, one in the stock.
 * Each thread allocates and frees a few times, by its hot path or by its slow one, which may also move an object
 * between its slot, the stock and the slabs. A carrier takes objects from the stock home. A caller that has met the
 * limit looks, without a barrier, at threads that it has not taken.
 *
 * Why it works
 *  1. A first look at each thread finds no round, then the limit is read as met: that is the moment L. A second look at
 *     each thread finds no round, and its counts as they were.
 *  2. A thread whose slot had a round at L has none at the second look only if it has popped it meanwhile, which it
 *     counts before it stores top, or if its slow path has moved it, which counts its passes at its end, and says until
 *     then that it is at work there. The processor keeps these stores in order.
 *  3. What was in the stock at L is found there afterwards, or was taken by a thread's slow path (2), or by a carrier,
 *     whose beginning is counted before. A carrier that had one at L is seen before.
 *
 * What the model has: the stores of both threads wait in buffers, first in, first out, until a locked instruction. The
 * caller's are of no interest. Left out are threads that are taken, and those that begin to use the cache.
 *
 * Nothing goes on for ever, for which one thread is enough (SMALL). What is checked: if the look says that none is
 * free, none was at L: both threads were between the beginning of an allocation and the end of the free.
 *
 * What must fail:
 *     NO_POPS      the caller does not compare the counts of pops
 *     NO_PASSES    nor those of slow paths
 *     NO_WORK      it does not ask whether a slow path is at work there
 *     NO_HANDS     it does not look for carriers
 *     ONE_LOOK     it does not look at threads twice
 *     MET_FIRST    it reads the limit before the first look
 *     TOP_FIRST    a pop stores top before the count: so processors that do not keep stores in order need a barrier */
#define LIMIT 2
#define TURNS (2 - me)

mtype = { TOP, POPS, PASSES, WORK };

byte charged = LIMIT, stock = 1, begun, carrying;

/* As others see them, and what waits until they do. */
byte top[2], pops[2], passes[2];
bit work[2];
chan buffer[2] = [6] of { mtype, byte };

bit inside[2]; /* from an allocation's beginning to its free's end */

#define store(what, value) buffer[me]!what, value
#define locked empty(buffer[me])

proctype processor(byte me)
{
    byte value;
end:
    do
    :: d_step { buffer[me]?TOP, value -> top[me] = value; value = 0 }
    :: d_step { buffer[me]?POPS, value -> pops[me] = value; value = 0 }
    :: d_step { buffer[me]?PASSES, value -> passes[me] = value; value = 0 }
    :: d_step { buffer[me]?WORK, value -> work[me] = value; value = 0 }
    od
}

proctype thread(byte me)
{
    byte rounds = 1 - me, popped, passed, turn;
    bit got;
    do
    :: turn == TURNS -> break
    :: else ->
        turn++;
        atomic { locked -> inside[me] = 1 }
        got = 1;
        if
        :: rounds > 0 ->
            rounds--;
            popped++;
#ifdef TOP_FIRST
            store(TOP, rounds);
            store(POPS, popped)
#else
            store(POPS, popped);
            store(TOP, rounds)
#endif
        :: else ->
            store(WORK, 1);
            if
            :: atomic { locked && stock > 0 -> stock-- }
            :: atomic { locked && charged < LIMIT -> charged++ }
            :: locked -> got = 0
            fi;
            passed++;
            store(PASSES, passed);
            store(WORK, 0)
        fi;
        if
        :: !got
        :: got ->
            rounds++;
            store(TOP, rounds)
        :: got -> /* its magazine is full: the object goes to the stock or to the slabs */
            store(WORK, 1);
            if
            :: atomic { locked -> stock++ }
            :: atomic { locked -> charged-- }
            fi;
            passed++;
            store(PASSES, passed);
            store(WORK, 0)
        fi;
        atomic { locked -> inside[me] = 0 }
    od
}

proctype carrier()
{
    byte has;
    atomic { begun++; carrying++ }
    atomic { has = stock; stock = 0 }
    atomic { charged = charged - has; has = 0 }
    carrying--
}

proctype caller()
{
    byte first_pops[2], first_passes[2], hands, i;
    bit none = 1, met, in_use;
#ifdef MET_FIRST
    atomic { met = charged >= LIMIT; in_use = inside[0] && inside[1] }
#endif
    do
    :: i == 2 -> break
    :: else ->
        first_passes[i] = passes[i];
        first_pops[i] = pops[i];
        none = none && !work[i];
        none = none && top[i] == 0;
        i++
    od;
    atomic { hands = begun; none = none && carrying == 0 }
#ifndef MET_FIRST
    atomic { met = charged >= LIMIT; in_use = inside[0] && inside[1] }
#endif
    none = none && met;
    none = none && stock == 0;
#ifndef ONE_LOOK
    do
    :: i == 0 -> break
    :: else ->
        i--;
#ifndef NO_WORK
        none = none && !work[i];
#endif
        none = none && top[i] == 0;
#ifndef NO_PASSES
        none = none && passes[i] == first_passes[i];
#endif
#ifndef NO_POPS
        none = none && pops[i] == first_pops[i];
#endif
    od;
#endif
#ifndef NO_HANDS
    none = none && begun == hands;
#endif
    if
    :: none -> assert(in_use)
    :: else
    fi
}

init
{
    atomic {
        top[0] = 1;
        run processor(0);
        run thread(0);
#ifndef SMALL
        run processor(1);
        run thread(1);
#endif
        run carrier();
        run caller()
    }
}
