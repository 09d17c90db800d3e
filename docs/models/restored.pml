/* Seats whose disk is rolled back, again and again, at most f at once (with the BYZ highest seats, which lie). Every seat signs one
   of two things that exclude one another: the receipts of two successors of one prev, a receipt or a Refused (-DQ1=n-w+1+f), two
   Reassigns of one (x, seq). cert[m]: enough signatures that do not contradict one another. A rolled back seat has forgotten what it
   signed, but the signature is out. It asks: NEED others tell it what they signed; what it hears of counts as signed
   by itself. It leaves the state `restored` then, and repairs the rows; it is whole when they are back.
   The seats that answered know its new incarnation, and pass on what they know of others; a signature says which incarnations its signer knows of, and a set in
   which one signature is older than another one knows is no certificate (-DNOFENCE: without, section 8 to the letter).
   -DATONCE: a restored seat signs at once. -DNEED: too few are asked. -DNOREPAIR: it goes on without the rows.
   -DCROWD: any number at once; only whether all of them end is checked; -DUNCOUNTED: words of restored seats do not count. */
#ifndef N
#define N 4
#define K 2
#define W 3
#endif
#ifndef BYZ
#define BYZ 0
#endif
#ifndef MOST
#define MOST (N-1)   /* rollbacks in all */
#endif
#define F (W-K)
#ifndef NEED
#define NEED (N-W+1+F)
#endif
#ifndef Q1
#define Q1 W
#endif
#define BIT(x) (1<<(x))
#define CNT(m) (((m)&1)+(((m)>>1)&1)+(((m)>>2)&1)+(((m)>>3)&1)+(((m)>>4)&1))
#define ALL (BIT(N)-1)
#define HON (BIT(N-BYZ)-1)
#define HAS(m,h) ((m) & BIT(h))
byte sig[2];        /* a signature of this seat is out */
byte old[2];        /* and it was forgotten */
byte knows[2];      /* what a seat holds itself bound to */
byte row[2];
byte older[2*N];    /* older[m*N+j]: seats whose signature for m is older than the incarnation that j's signature names */
byte told[N];       /* seats of whose present incarnation this one knows */
byte asked[N];
byte restored, count;
bool cert[2];
byte h, j, m, x, q; bool ok;
hidden byte one_certificate, recoverable, can_end;
/* seats without the row of what they know to be bound to: they count as out of order, like restored ones */
#define LATE(m) (knows[m] & HON & ~row[m])
#ifdef NOREPAIR
#define BUSY restored
#else
#define BUSY (restored | LATE(0) | LATE(1))
#endif
#ifdef CROWD
#define MAYFAIL true
#else
#define MAYFAIL (CNT(BUSY) + BYZ < F)
#endif
#ifdef ATONCE
#define MAYSIGN true
#else
#define MAYSIGN (!HAS(restored,h))
#endif
#ifdef UNCOUNTED
#define COUNTED(j) (!HAS(restored,j))
#else
#define COUNTED(j) true
#endif
inline pick() { h = 0; do :: h < N-BYZ-1 -> h++ :: break od }
inline which() { if :: m = 0 :: m = 1 fi }
inline inv() {
#ifndef CROWD
   one_certificate = !(cert[0] && cert[1]); assert(one_certificate);
   m = 0; recoverable = true;
   do :: m < 2 -> if :: cert[m] && (m == 0 || Q1 == W) && CNT(row[m]) < K -> recoverable = false :: else fi; m++ :: else -> break od;
#ifndef FORK
   assert(recoverable);
#endif
#else
   ok = (restored == 0); h = 0;
   do :: h < N-BYZ && !ok -> 
#ifdef UNCOUNTED
        if :: HAS(restored,h) && CNT((asked[h] | (HON & ~restored)) & ~BIT(h)) >= NEED -> ok = true :: else fi;
#else
        if :: HAS(restored,h) && CNT((asked[h] | HON) & ~BIT(h)) >= NEED -> ok = true :: else fi;
#endif
        h++ :: else -> break od;
   can_end = ok; assert(can_end);
#endif
   h = 0; j = 0; m = 0; x = 0; q = 0; ok = false
}
init {
  d_step { sig[0] = ALL-HON; sig[1] = ALL-HON }
  do
  :: atomic { pick(); which();   /* sign, for the first time or again */
       if :: MAYSIGN && !HAS(knows[1-m],h) && !HAS(row[m],h) ->
             d_step { sig[m] = sig[m] | BIT(h); old[m] = old[m] & ~BIT(h); knows[m] = knows[m] | BIT(h); row[m] = row[m] | BIT(h);
#ifndef NOFENCE
               older[m*N+h] = told[h] & old[m];
#endif
               j = 0; do :: j < N -> older[m*N+j] = older[m*N+j] & ~BIT(h); j++ :: else -> break od }
          :: else fi; d_step { inv() } }
  :: atomic { which();           /* a certificate: a set of signatures, none older than another knows */
       d_step { x = 0; ok = false;
         do :: x < BIT(N) ->
              if :: (x & ~sig[m]) == 0 && CNT(x) >= (m == 0 -> W : Q1) -> q = 0; j = 0;
                    do :: j < N -> if :: HAS(x,j) -> q = q | older[m*N+j] :: else fi; j++ :: else -> break od;
                    if :: (q & x) == 0 -> ok = true :: else fi
                 :: else fi; x++ :: else -> break od;
         if :: ok -> cert[m] = true :: else fi; inv() } }
  :: atomic { pick();            /* the disk is rolled back to the beginning */
       if :: count < MOST && !HAS(restored,h) && MAYFAIL ->
             d_step { count++; restored = restored | BIT(h); m = 0;
               do :: m < 2 -> old[m] = old[m] | (sig[m] & BIT(h)); knows[m] = knows[m] & ~BIT(h); row[m] = row[m] & ~BIT(h); m++ :: else -> break od;
               asked[h] = 0; told[h] = 0; j = 0; do :: j < N -> told[j] = told[j] & ~BIT(h); j++ :: else -> break od }
          :: else fi; d_step { inv() } }
  :: atomic { pick(); j = 0; do :: j < N-1 -> j++ :: break od;   /* another seat tells it */
       if :: HAS(restored,h) && h != j && !HAS(asked[h],j) && COUNTED(j) ->
             d_step { asked[h] = asked[h] | BIT(j);
               if :: HAS(HON,j) -> told[h] = told[h] | (told[j] & ~BIT(h)); told[j] = told[j] | BIT(h); m = 0;
                       do :: m < 2 -> if :: HAS(knows[m],j) -> knows[m] = knows[m] | BIT(h) :: else fi; m++ :: else -> break od
                  :: else fi }
          :: else fi; d_step { inv() } }
  :: atomic { pick(); if :: HAS(restored,h) && CNT(asked[h]) >= NEED -> restored = restored & ~BIT(h); asked[h] = 0 :: else fi; d_step { inv() } }
  :: atomic { pick(); which();   /* k others give it the row back */
       if :: HAS(knows[m],h) && !HAS(row[m],h) && CNT(row[m]) >= K -> row[m] = row[m] | BIT(h) :: else fi; d_step { inv() } }
  od }
