/* W5 with joint certificates: two writers, manifests 2 and 3, both successors of manifest 1 (compare-and-set: no force).
   Each has its own seats (S2, S3); a certificate needs W of its own seats and W of manifest 1's (S1), those sign without a row.
   A seat that is asked and has no receipt says NONE (persisted: no longer taken from the writer). It signs Refused only when in
   some group as many said none as refusals make it dead there; it signs Prepared by SETTLE, with a repaired row, only when in
   every group so many have receipts that this cannot happen any more. Dead: row and hold on 1 go.
   The seats in L lie: they sign everything, say none of everything, keep nothing.
   A split of 1's seats in halves (2K <= N) stays: -DLIVE fails there, and only force passes it.
   -DLIVE: nobody lies or is lost and nothing is committed; when no step is left, each manifest has its certificate or is dead,
   or the other one has its certificate.
   -DREVOKED: at any time a holder of manifest 1 is revoked, and NEEDMIN of its seats suffice.
   Variants that must fail: -DD=.. too few refusals are death, -DDP=.. the same in the group of 1, -DNOPOLL Refused without the
   nones, -DTAKENONE a seat that said none takes the row from the writer, -DNORELEASE the hold on 1 stays, -DNOHOLD it never was,
   -DNOJOINT certificates without 1's seats, -DOWNONLY Prepared by SETTLE when only the own seats have K receipts,
   -DNOTELL committing without telling 1's seats, -DNOROW Prepared by SETTLE without the row. */
#ifndef NN
#define NN 5
#define N 5
#define K 3
#define W 4
#define NEEDMIN 3
#define S1 31
#define S2 31
#define S3 31
#endif
#ifndef L
#define L 0
#endif
#define F (W-K)
#ifndef D
#define D (N-W+1+F)       /* refusals that make it dead in its own group */
#endif
#ifndef DP
/* in the group of 1: also if one of its holders is revoked later, when none may lie */
#define DP (N-NEEDMIN+1 > N-W+1+F -> N-NEEDMIN+1 : N-W+1+F)
#endif
#define TP (N-(DP)+1)
#ifndef LOST
#define LOST (F-C(L))
#endif
#define BIT(x) (1<<(x))
#define C(x) (((x)&1)+(((x)>>1)&1)+(((x)>>2)&1)+(((x)>>3)&1)+(((x)>>4)&1)+(((x)>>5)&1)+(((x)>>6)&1))
#define SEATS(m) (m == 2 -> S2 : S3)
#ifdef REVOKED
#define NEED (rev -> NEEDMIN : W)
#else
#define NEED W
#endif
#ifdef NOJOINT
#define CERT(m) (C(rcpt[m] & SEATS(m)) >= W)
#define PART(h,m) (SEATS(m) & BIT(h))
#else
#define CERT(m) (C(rcpt[m] & SEATS(m)) >= W && C(rcpt[m] & S1) >= NEED)
#define PART(h,m) ((SEATS(m) | S1) & BIT(h))
#endif
#define DEAD(m) (C(ref[m] & SEATS(m)) >= D || C(ref[m] & S1) >= DP)
#ifdef NOPOLL
#define NONES(m) true
#else
#define NONES(m) (C(none[m] & SEATS(m)) >= D || C(none[m] & S1) >= DP)
#endif
#ifdef NORELEASE
#define FREE(h,o) (!(rcpt[o] & BIT(h)))
#else
#ifdef NOHOLD
#define FREE(h,o) true
#else
#define FREE(h,o) (!(rcpt[o] & BIT(h)) || DEAD(o))
#endif
#endif
#ifdef OWNONLY
#define ENOUGH(m) (C(rcpt[m] & SEATS(m)) >= K)
#else
#define ENOUGH(m) (C(rcpt[m] & SEATS(m)) >= K && C(rcpt[m] & S1) >= TP)
#endif
#ifdef TAKENONE
#define TAKES(h,m) true
#else
#define TAKES(h,m) (!(none[m] & BIT(h)))
#endif
#ifdef NOROW
#define REPAIRS(m) true
#else
#define REPAIRS(m) (C(row[m] & ~lost) + C(L & SEATS(m)) >= K)
#endif
#define HON(h) (!((L | lost) & BIT(h)))
#define AT1(h) (!((at[2] | at[3]) & BIT(h)))
#define BELOW(h,m) (!(at[3] & BIT(h)) && !(m == 2 && (at[2] & BIT(h))))
#define OPEN(h,m) (HON(h) && PART(h,m) && !((rcpt[m] | ref[m]) & BIT(h)))

byte row[4], rcpt[4], none[4], ref[4], at[4], lost, ack;
bool rev;

inline inv() {
#ifndef LIVE
   assert(!((ack & 4) && (ack & 8)));
   assert(!(CERT(2) && CERT(3)));                              /* one line */
   assert(!(DEAD(2) && CERT(2)) && !(DEAD(3) && CERT(3)));     /* the dead stay dead */
   assert(!(at[2] & ~L) || C(row[2] & ~lost & ~L) >= K);       /* what is certified can be read */
   assert(!(at[3] & ~L) || C(row[3] & ~lost & ~L) >= K);
   assert(((at[2] | at[3]) & ~L) || C(row[1] & ~lost & ~L) >= K);
   assert(!ack || C(row[1] & ~lost & ~L) < K);                 /* acknowledged: the old value is no more */
#endif
   skip
}
#define TAKE(h,m) rcpt[m] = rcpt[m] | BIT(h); if :: SEATS(m) & BIT(h) -> row[m] = row[m] | BIT(h) :: else fi
#ifdef NOROW
#define MEND(h,m) rcpt[m] = rcpt[m] | BIT(h)
#else
#define MEND(h,m) TAKE(h,m)
#endif
#ifdef NOTELL
#define TOLD(h,m) ((SEATS(m) & BIT(h)) && (row[m] & BIT(h)))
#define ACKED(m) (C(at[m] & SEATS(m)) + C(L & SEATS(m)) >= W)
#else
#define TOLD(h,m) ((row[m] & BIT(h)) || !(SEATS(m) & BIT(h)))
#define ACKED(m) (C((at[m] | L) & SEATS(m)) >= W && C((S1 & ~row[1]) | (L & S1)) >= NEED)
#endif
#define PREPARE(h,m,o) :: atomic { OPEN(h,m) && AT1(h) && TAKES(h,m) && FREE(h,o) -> TAKE(h,m); inv() }
#define SAY(h,m)       :: atomic { OPEN(h,m) && BELOW(h,m) && !(none[m] & BIT(h)) -> none[m] = none[m] | BIT(h); inv() }
#define REFUSE(h,m)    :: atomic { OPEN(h,m) && NONES(m) -> none[m] = none[m] | BIT(h); ref[m] = ref[m] | BIT(h); inv() }
#define SETTLE(h,m,o)  :: atomic { OPEN(h,m) && AT1(h) && FREE(h,o) && ENOUGH(m) && REPAIRS(m) -> MEND(h,m); inv() }
#ifdef LIVE
#define REST(h,m,o)
#else
#define REST(h,m,o) \
   :: atomic { HON(h) && PART(h,m) && BELOW(h,m) && CERT(m) && TOLD(h,m) -> \
         at[m] = at[m] | BIT(h); at[o] = at[o] & ~BIT(h); row[1] = row[1] & ~BIT(h); \
         if :: o < m -> row[o] = row[o] & ~BIT(h) :: else fi; inv() } \
   :: atomic { HON(h) && DEAD(m) && (row[m] & BIT(h)) && !(at[m] & BIT(h)) -> row[m] = row[m] & ~BIT(h); inv() }
#endif
#define NODE1(h,m,o) PREPARE(h,m,o) SAY(h,m) REFUSE(h,m) SETTLE(h,m,o) REST(h,m,o)
#define NODE(h) NODE1(h,2,3) NODE1(h,3,2)
#define LOSE(h) :: atomic { C(lost) < LOST && HON(h) -> lost = lost | BIT(h); inv() }

init {
   atomic { row[1] = S1 & ~L; rcpt[2] = L; rcpt[3] = L; none[2] = L; none[3] = L; ref[2] = L; ref[3] = L }
end:
   do
   NODE(0) NODE(1) NODE(2)
#if NN > 3
   NODE(3)
#endif
#if NN > 4
   NODE(4)
#endif
#if NN > 5
   NODE(5)
#endif
#ifdef REVOKED
   :: atomic { !rev -> rev = true; inv() }
#endif
#ifdef LIVE
   :: else -> assert(CERT(2) || CERT(3) || DEAD(2)); assert(CERT(2) || CERT(3) || DEAD(3)); break
#else
   LOSE(0) LOSE(1) LOSE(2)
#if NN > 3
   LOSE(3)
#endif
#if NN > 4
   LOSE(4)
#endif
   :: atomic { ACKED(2) && !(ack & 4) -> ack = ack | 4; inv() }
   :: atomic { ACKED(3) && !(ack & 8) -> ack = ack | 8; inv() }
#endif
   od
}
