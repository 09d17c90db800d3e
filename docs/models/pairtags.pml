/* Rows past epoch 0: which row a reader takes and which repaired row a seat takes. acked: honest seats that acknowledged; the
   highest seat lies. It may send other tags t with every acknowledgement: each step takes any certificate that can be made,
   a set of w or more whose t agree in every pair (-DNOTAGS: no t, only the c each seat gives itself). lt: seats outside the
   set for which the liar's t is wrong. A wrong row agrees with the right one in at most k-1 places. All seats have applied the
   bundle; n-k of them, the liar among them, may be out of order at once.
   Rules: a row of a seat outside the certificate is good iff k of the t match (-DALLTAGS: all); a repaired row is taken when w
   values lie on one polynomial, or k of them where both sides gave a t (-DKAWAY: k always). */
#ifndef N
#define N 5
#define K 3
#define W 4
#endif
#define BIT(x) (1<<(x))
#define CNT(m) (((m)&1)+(((m)>>1)&1)+(((m)>>2)&1)+(((m)>>3)&1)+(((m)>>4)&1)+(((m)>>5)&1))
#define L BIT(N-1)
#define HON (BIT(N-1)-1)
#define HAS(m,h) ((m) & BIT(h))
byte acked, right, wrong;
byte h, i, s, lt, v, r, w, g; bool lies;
hidden byte readable, liar_named, repaired_right;
inline subset(from, to) { to = 0; i = 0; do :: i < N -> if :: HAS(from,i) -> if :: to = to | BIT(i) :: true fi :: else fi; i++ :: else -> break od; i = 0 }
inline certificate() {
   subset(acked|L, s);
   if :: (s & L) -> 
#ifdef NOTAGS
        subset(HON, lt)
#else
        subset(HON & ~s, lt)
#endif
      :: else -> lt = 0 fi }
/* how many t of the certificate match the right row of honest seat h */
#define MATCH(h) (CNT(s & HON & ~BIT(h)) + ((s & L) && !HAS(lt,h) -> 1 : 0))
#ifdef NOTAGS
#define GOOD(h) true
#elif defined(ALLTAGS)
#define GOOD(h) (MATCH(h) == CNT(s & ~BIT(h)))
#else
#define GOOD(h) (HAS(s,h) -> MATCH(h) == CNT(s & ~BIT(h)) : MATCH(h) >= K)
#endif
/* a wrong row of the liar matches at most k-1 honest t */
#ifdef NOTAGS
#define LIARGOOD (s & L)
#else
#define LIARGOOD ((s & L) -> CNT(s & HON) <= K-1 : false)
#endif
/* the liar's wrong value for seat h passes its own t, and that of h */
#ifdef NOTAGS
#define PASSES true
#else
#define PASSES (!HAS(s,h) && (!(s & L) || HAS(lt,h)))
#endif
#ifdef KAWAY
#define T K
#else
#define T (HAS(s,h) -> K : W)
#endif
inline clear() { h = 0; i = 0; s = 0; lt = 0; v = 0; r = 0; w = 0; g = 0; lies = false }
init {
  atomic { subset(HON, acked); right = HON; if :: CNT(acked) >= W-1 -> skip :: else -> acked = HON fi }
  do
  :: atomic { certificate();     /* a reader */
       if :: CNT(s) >= W -> d_step { h = 0; g = 0; do :: h < N-1 -> if :: HAS(right,h) && GOOD(h) -> g++ :: else fi; h++ :: else -> break od;
               readable = (g >= K); liar_named = !(LIARGOOD); assert(readable); assert(liar_named) }
          :: else fi; clear() }
  :: atomic { h = 0; do :: h < N-2 -> h++ :: break od;   /* a row is lost */
       if :: CNT(HON & ~right) < N-K-1 -> right = right & ~BIT(h); wrong = wrong & ~BIT(h) :: else fi; clear() }
  :: atomic { h = 0; do :: h < N-2 -> h++ :: break od;   /* and repaired by the values of v, and perhaps the liar's */
       certificate(); subset((right|wrong) & ~BIT(h), v); if :: lies = true :: lies = false fi;
       if :: CNT(s) >= W && !HAS(right|wrong,h) ->
             d_step { r = CNT(v & right); w = CNT(v & wrong) + (lies && PASSES -> 1 : 0);
               if :: w == 0 && r >= T -> right = right | BIT(h)
                  :: w > 0 && r < K && r + w >= T -> wrong = wrong | BIT(h)
                  :: else fi;
               repaired_right = (wrong == 0); assert(repaired_right) }
          :: else fi; clear() }
  od }
