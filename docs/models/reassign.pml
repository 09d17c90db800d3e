/* Reassign of seat 0 (node 0) to standby N or its rival N+1, against two new generations A and B after the same prev.
   Nodes 1..N-1 keep the other seats; with BYZ the highest of them lies: it signs, promises and says everything.
   sg[s]: seats that signed (by quorum) or recorded (by the owner) the Reassign to standby s. pr[a]: nodes that signed Prepared for
   a as a seat of prev. told: nodes that know the certificate of A and keep prev's row no more. A Prepared says which
   Reassigns its signer signed or recorded: wk[a].
   Rules (taken away by): one Reassign a (x, seq) (-DTWICE); none after a Prepared for a successor (-DAFTER); a Prepared
   names the Reassigns (-DSILENT); seat 0 of prev counts by its current holder, while the Reassign is not known to be complete by
   old and new together (-DOLDCOUNTS: by the manifest; -DEITHER: by any one); the new holder takes the row after w seats recorded the Reassign
   (-DNORECORD); the old one deletes after the new one holds the row (-DHASTY); a reader does not count the word of a holder that any answer says is moved (-DNAIVE);
   -DVETO: helpers wait for the owner (-DNOWAIT: do not). -DOWNER: the owner signs, both standbys, on two machines. */
#ifndef N
#define N 4
#define K 2
#define W 3
#endif
#ifndef BYZ
#define BYZ 0
#endif
#define DEADMAX (W-K-BYZ)
#define BIT(x) (1<<(x))
#define CNT(m) (((m)&1)+(((m)>>1)&1)+(((m)>>2)&1)+(((m)>>3)&1)+(((m)>>4)&1)+(((m)>>5)&1)+(((m)>>6)&1))
/* acknowledged at w: the others may never have had a row */
#ifdef ALL
#define MISSING 0
#else
#define MISSING ((BIT(N-W)-1)*2)
#endif
#define OTHERS (BIT(N)-2)
#define HON (BIT(N-BYZ)-1)
#define LIAR (BIT(N)-1-HON)
#define NEED (N-W+1+BYZ)
#define S(s) BIT(N+s)
#define HAS(m,h) ((m) & BIT(h))
byte r1, sg[2], val[2], pr[2], wk[2], told, dead, ndead, vt;
bool cert[2], acked, issued, day;
byte h, s, a, c, d, m;
hidden byte one_successor, one_holder, recoverable, fresh, veto_holds;
#define COMPLETE(s) (CNT(sg[s]) >= W)
/* seat 0 of prev in the nodes of mask q, as writer a may count it */
#ifdef OLDCOUNTS
#define SEAT0(q,k) ((q)&1)
#elif defined(EITHER)
#define SEAT0(q,k) (((q) & (1|S(0)|S(1))) -> 1 : 0)
#else
#define NAMED(k) ((wk[k]&1 -> S(0) : 0) | (wk[k]&2 -> S(1) : 0))
#define SEAT0(q,k) (((((q)&1) && ((q) & NAMED(k)) == NAMED(k)) || ((wk[k]&1) && COMPLETE(0) && ((q)&S(0))) || ((wk[k]&2) && COMPLETE(1) && ((q)&S(1)))) -> 1 : 0)
#endif
#ifdef SILENT
#define TELL(k,h) skip
#else
#define TELL(k,h) wk[k] = wk[k] | (HAS(sg[0],h) -> 1 : 0) | (HAS(sg[1],h) -> 2 : 0)
#endif
#ifdef TWICE
#define ONCE true
#else
#define ONCE (!HAS(sg[1-s],h))
#endif
#ifdef AFTER
#define BEFORE true
#else
#define BEFORE (!HAS(pr[0]|pr[1],h))
#endif
#ifdef OWNER
#define HELPS HAS(sg[s],h)
#else
#define HELPS COMPLETE(s)
#endif
#ifdef NORECORD
#define RECORDED true
#else
#define RECORDED COMPLETE(s)
#endif
#ifdef HASTY
#define HELD(s) true
#else
#define HELD(s) (r1 & S(s))
#endif
#if !defined(VETO) || defined(NOWAIT)
#define WAITED true
#else
#define WAITED (day && !HAS(vt,h))
#endif
inline other() { h = 1; do :: h < N-BYZ-1 -> h++ :: break od }       /* an honest seat but 0 */
inline any() { h = 0; do :: h < N-BYZ-1 -> h++ :: break od; if :: true :: h = N :: h = N+1 fi }
inline which() { if :: s = 0 :: s = 1 fi }
inline inv() {
   one_successor = !(cert[0] && cert[1]); assert(one_successor);
   one_holder = !((r1 & S(0)) && (r1 & S(1)));
   assert(one_holder);
   /* K live honest rows of prev while nothing newer is certified */
   c = CNT(r1 & OTHERS & HON & ~dead) + (((r1 & ~dead) & (1|S(0)|S(1))) -> 1 : 0);
   recoverable = (cert[0] || cert[1] || c >= K); assert(recoverable);
   /* no reader believes "nothing newer" once A is acknowledged */
   m = OTHERS & HON & ~told & ~dead;
   c = CNT(m) + BYZ + ((r1 & ~told & ~dead & (S(0)|S(1))) -> 1 : 0);
#ifdef NAIVE
   d = CNT(m) + BYZ + ((~told & ~dead & 1) -> 1 : 0);
#else
   d = CNT(m & ~(sg[0]|sg[1])) + BYZ + ((r1 & ~told & ~dead & 1) -> 1 : 0);
#endif
   fresh = (!acked || (c < NEED && d < NEED)); assert(fresh);
   veto_holds = !(issued && (r1 & (S(0)|S(1)))); assert(veto_holds);
   h = 0; s = 0; a = 0; c = 0; d = 0; m = 0
}
init {
  d_step { r1 = BIT(N)-1-MISSING; sg[0] = LIAR; sg[1] = LIAR; val[0] = LIAR; val[1] = LIAR; pr[0] = LIAR; pr[1] = LIAR; told = LIAR }
  do
  :: atomic { other(); which();   /* sign or record a Reassign */
       if :: !HAS(dead,h) && !HAS(told,h) && ONCE && BEFORE -> sg[s] = sg[s] | BIT(h) :: else fi; d_step { inv() } }
  :: atomic { other(); which();   /* a helper's value */
       if :: HAS(r1,h) && !HAS(told,h) && HELPS && ONCE && WAITED -> val[s] = val[s] | BIT(h) :: else fi; d_step { inv() } }
  :: atomic { which();            /* the new holder has the row */
       if :: CNT(val[s]) >= K && RECORDED && !(told & S(s)) && !(dead & S(s)) -> r1 = r1 | S(s) :: else fi; d_step { inv() } }
  :: atomic { which();            /* the old holder returns and sees the Reassign */
       if :: COMPLETE(s) && HELD(s) -> r1 = r1 & ~1 :: else fi; d_step { inv() } }
  :: atomic { any(); if :: a = 0 :: a = 1 fi;   /* Prepared for a successor, as a seat of prev or a named standby */
       if :: !HAS(told,h) && !HAS(dead,h) && !HAS(pr[1-a],h) && (h > 0 || HAS(r1,h)) -> pr[a] = pr[a] | BIT(h); if :: h < N -> TELL(a,h) :: else fi :: else fi; d_step { inv() } }
  :: atomic { if :: a = 0 :: a = 1 fi;
       if :: CNT(pr[a] & OTHERS) + SEAT0(pr[a],a) >= W -> cert[a] = true :: else fi; d_step { inv() } }
  :: atomic { any(); if :: cert[0] && !HAS(dead,h) -> told = told | BIT(h); r1 = r1 & ~BIT(h); if :: h < N -> TELL(0,h) :: else fi :: else fi; d_step { inv() } }
  :: atomic { if :: cert[0] && CNT(told & OTHERS) + SEAT0(told,0) >= W -> acked = true :: else fi; d_step { inv() } }
  :: atomic { any(); if :: ndead < DEADMAX && !HAS(dead,h) -> dead = dead | BIT(h); r1 = r1 & ~BIT(h); ndead++ :: else fi; d_step { inv() } }
#ifdef VETO
  :: atomic { other(); if :: !day -> issued = true; vt = vt | BIT(h) :: else fi; d_step { inv() } }
  :: atomic { which(); if :: !issued || CNT(vt) + BYZ >= W -> day = true :: else fi; d_step { inv() } }
#endif
  od }
