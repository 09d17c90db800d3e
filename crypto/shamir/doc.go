// Package shamir splits a key among seats and joins it again: Shamir shares of
// the unmodified hashicorp/vault/shamir, and on top of them the rows of a
// symmetric bivariate polynomial with which seats audit and repair one another
// without the key (protocol.md sections 3 and 8).
//
// Every byte of a secret is shared on its own over GF(2^8) modulo 0x11b. A
// share is (x, y): x is a non-zero byte, the seat's coordinate, and y has the
// secret's length. Other implementations of the same construction write it as
// y || x.
//
// A dealing fixes F(x, y) = F(y, x) of degree k-1 in both, with F(x, 0) = P(x),
// P being the polynomial of the shares and P(0) the secret. The row of seat x
// is F(x, 0), F(x, 1), ... F(x, k-1), each a vector of the secret's length:
//
//	row bytes = F(x,0) || F(x,1) || ... || F(x,k-1)        k * width bytes
//
// A dealing of zero is such a polynomial with F(0, 0) = 0, 48 bytes wide, and a
// proof that every seat checks with its own row alone ([VerifyZero]; protocol.md
// section 9). Added to rows it gives other rows of the same secret.
//
// Nothing else here has integrity: too few, wrong or mixed shares give a wrong
// secret and no error. Callers check each row against its commitment before
// they combine it and the result against its key check (protocol.md section 3).
//
// The package is pure but for the system's random source and keeps no state;
// all functions are safe for concurrent use. Time depends on coordinates,
// lengths and counts, which are public, never on values.
package shamir
