// A small program whose image has all that luaflame reads: unwind information, symbols, DWARF with inlined functions.
static inline __attribute__((always_inline)) int twice(int x) { return x * 2; }
__attribute__((noinline)) int leaf(int x) { volatile int a[8]; a[x & 7] = twice(x); return a[0]; }
__attribute__((noinline)) int caller(int x) { return leaf(x) + leaf(x + 1); }
extern "C" void _start() { volatile int x = caller(3); (void)x; for (;;) ; }
