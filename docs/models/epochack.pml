/* A refresh of one epoch: acknowledgements, Epoch certificates, COMMIT_EPOCH, late deletion, over rounds. Contents A and B
   are two sets of k dealings over the same base rows; proposal p is content p%2 in round p/2+1, so a content can be proposed
   AGAIN in a later round. The BYZ highest seats acknowledge and commit every proposal and hold nothing. A seat that was away
   commits without having acknowledged. With BYZ=0 up to w-k honest seats lose their disk.
   R1 one acknowledgement a round (-DTWOACKS: without)     R2 an acknowledgement of round r+1 forbids committing round <= r
   (-DNOFORBID)     R3 a seat that committed acknowledges only the same content again, or one that has an Epoch certificate of
   a round above the committed one, which it may also commit (-DFREE: acknowledges anything; -DNEVER: acknowledges nothing more)
   R4 the base row goes after w Committed of one round (-DEAGER: at the local commit) */
#ifndef N
#define N 4
#define K 2
#define W 3
#endif
#ifndef BYZ
#define BYZ 0
#endif
#ifndef ROUNDS
#define ROUNDS 2
#endif
#define P (2*ROUNDS)
#define DEADMAX (W-K-BYZ)
#define BIT(x) (1<<(x))
#define CNT(m) (((m)&1)+(((m)>>1)&1)+(((m)>>2)&1)+(((m)>>3)&1)+(((m)>>4)&1))
#define HON (BIT(N-BYZ)-1)
#define BM ((BIT(N)-1)-HON)
#define ROUND(p) ((p)/2+1)
#define CERT(p) (CNT(ack[p]) >= W)
#define HAS(m,h) ((m) & BIT(h))
byte ack[P], com[P], base, dead, ndead;
byte at[N];      /* highest round this seat acknowledged */
byte cur[N];     /* 0: nothing committed, else 1 + proposal */
byte h, p, q, c, d, x; bool ok;
hidden byte one_content, recoverable, can_end;
#define LOCKROUND(h) (cur[h] == 0 -> 0 : ROUND(cur[h]-1))
#define CONTENT(h) ((cur[h]-1) % 2)
#ifdef NOFORBID
#define R2 true
#else
#define R2 (ROUND(p) >= at[h])
#endif
#ifdef TWOACKS
#define R1 (ROUND(p) >= at[h])
#else
#define R1 (ROUND(p) > at[h])
#endif
#if defined(FREE)
#define R3 true
#elif defined(NEVER)
#define R3 (cur[h] == 0)
#else
#define R3 (cur[h] == 0 || (ROUND(p) > LOCKROUND(h) && (CONTENT(h) == p % 2 || (p >= 4 && CERT(p-2) && ROUND(p-2) > LOCKROUND(h)) || (p >= 6 && CERT(p-4) && ROUND(p-4) > LOCKROUND(h)))))
#endif
#define MAYCOMMIT (CERT(p) && HAS(base,h) && R2 && ROUND(p) > LOCKROUND(h))
inline pick() { h = 0; do :: h < N-BYZ-1 -> h++ :: break od }
inline prop() { p = 0; do :: p < P-1 -> p++ :: break od }
inline inv() {
   /* one content an epoch: what w seats committed is never passed by a certificate of another content */
   one_content = true; p = 0;
   do :: p < P -> q = 0;
        do :: q < P -> if :: CNT(com[p]) >= W && CERT(q) && p%2 != q%2 && ROUND(q) >= ROUND(p) -> one_content = false :: else fi; q++ :: else -> break od; p++ :: else -> break od;
#ifndef LOSS
   assert(one_content);
#endif
   /* k live honest rows of one and the same content, or of the base */
   ok = (CNT(base & ~dead) >= K);
   x = 0; do :: x < 2 -> c = 0; h = 0;
        do :: h < N-BYZ -> if :: !HAS(dead,h) && cur[h] != 0 && CONTENT(h) == x -> c++ :: else fi; h++ :: else -> break od;
        if :: c >= K -> ok = true :: else fi; x++ :: else -> break od;
   recoverable = ok; assert(recoverable);
   /* it can end: as many as w live honest seats can commit one content, in a round of now or in one more */
   c = CNT(HON & ~dead); ok = (c < W); x = 0;
   do :: x < 2 && !ok -> c = 0; h = 0;   /* in one more round */
        do :: h < N-BYZ -> d = 0;
             if :: HAS(dead,h) :: !HAS(dead,h) && cur[h] != 0 && CONTENT(h) == x -> 
#ifdef NEVER
                  d = !HAS(base,h)
#else
                  d = 1
#endif
                :: !HAS(dead,h) && cur[h] == 0 -> d = 1
                :: !HAS(dead,h) && cur[h] != 0 && CONTENT(h) != x ->
#ifdef FREE
                  d = (HAS(base,h) -> 1 : 0)
#else
                  p = x; do :: p < P -> if :: CERT(p) && ROUND(p) > LOCKROUND(h) && HAS(base,h) -> d = 1 :: else fi; p = p + 2 :: else -> break od
#endif
             fi; c = c + d; h++ :: else -> break od;
        if :: c >= W -> ok = true :: else fi; x++ :: else -> break od;
   p = 0;
   do :: p < P && !ok -> c = 0; h = 0;   /* in one of now */
        do :: h < N-BYZ -> if :: !HAS(dead,h) && (HAS(com[p],h) || MAYCOMMIT) -> c++ :: else fi; h++ :: else -> break od;
        if :: c >= W -> ok = true :: else fi; p++ :: else -> break od;
   can_end = ok;
#ifndef LOSS
   assert(can_end);
#endif

   h = 0; p = 0; q = 0; c = 0; d = 0; x = 0; ok = false
}
init {
  d_step { base = HON; p = 0; do :: p < P -> ack[p] = BM; com[p] = BM; p++ :: else -> break od; p = 0 }
  do
  :: atomic { pick(); prop();
       if :: !HAS(dead,h) && HAS(base,h) && !HAS(ack[p],h) && R1 && R3 -> ack[p] = ack[p] | BIT(h); at[h] = ROUND(p) :: else fi; d_step { inv() } }
  :: atomic { pick(); prop();
       if :: !HAS(dead,h) && MAYCOMMIT -> com[p] = com[p] | BIT(h); cur[h] = 1+p;
#ifdef EAGER
             base = base & ~BIT(h)
#endif
          :: else fi; d_step { inv() } }
  :: atomic { pick();
       if :: !HAS(dead,h) && cur[h] != 0 && HAS(base,h) && CNT(com[cur[h]-1]) >= W -> base = base & ~BIT(h) :: else fi; d_step { inv() } }
  :: atomic { pick(); if :: ndead < DEADMAX && !HAS(dead,h) -> dead = dead | BIT(h); ndead++ :: else fi; d_step { inv() } }
  od }
