/* Reassign of seat 0 (node 0) to standby N while a refresh of one bundle is committed; the bundle is sealed to node 0, so that the
   standby can apply nothing: it repairs a row of the old epoch from k rows, one of the new from w. One of the other seats may
   have no row (-DALL: all have). Up to w-k disks are lost. The old holder deletes when the new one holds the row of the epoch
   of its own row, or of a higher one (-DANYEPOCH: any row). */
#ifndef N
#define N 4
#define K 2
#define W 3
#endif
#define BIT(x) (1<<(x))
#define CNT(m) (((m)&1)+(((m)>>1)&1)+(((m)>>2)&1)+(((m)>>3)&1)+(((m)>>4)&1)+(((m)>>5)&1))
#define S BIT(N)
#define OTHERS (BIT(N)-2)
#define HAS(m,h) ((m) & BIT(h))
#define SEATS(m) (CNT((m) & OTHERS) + ((m) & (1|S) -> 1 : 0))
#ifdef ALL
#define MISSING 0
#else
#define MISSING ((BIT(N-W)-1)*2)
#endif
#ifdef ANYEPOCH
#define HELD ((base|new) & S)
#else
#define HELD ((new & 1) -> (new & S) : ((base|new) & S))
#endif
byte base, new, ack, com, ndead, h; bool moved;
hidden byte recoverable;
inline pick() { h = 0; do :: h < N -> h++ :: break od }
inline inv() { recoverable = (SEATS(base) >= K || SEATS(new) >= K); assert(recoverable); h = 0 }
init {
  base = BIT(N)-1-MISSING;
  do
  :: atomic { pick(); if :: h < N && HAS(base,h) -> ack = ack | BIT(h) :: else fi; inv() }
  :: atomic { pick(); if :: CNT(ack) >= W && h < N && HAS(base,h) -> com = com | BIT(h); new = new | BIT(h) :: else fi; inv() }
  :: atomic { pick(); if :: CNT(com) >= W && HAS(new,h) -> base = base & ~BIT(h) :: else fi; inv() }
  :: atomic { moved = true }
  :: atomic { pick(); if :: moved && CNT(base & OTHERS) >= K -> base = base | S :: else fi; inv() }
  :: atomic { pick(); if :: moved && CNT(new & OTHERS) >= W -> new = new | S :: else fi; inv() }
  :: atomic { pick(); if :: moved && HELD -> base = base & ~1; new = new & ~1 :: else fi; inv() }
  :: atomic { pick(); if :: ndead < W-K && HAS(base|new,h) -> base = base & ~BIT(h); new = new & ~BIT(h); ndead++ :: else fi; inv() }
  od }
