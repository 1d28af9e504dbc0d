/* bcryptprimitives.dll, which wine 8 lacks and Rust's standard library asks for chance. For wine only: never shipped. */
#include <windows.h>

#define MOST 0x10000000u /* bytes that are asked for at once; the other function counts in 32 bits */

BOOLEAN NTAPI SystemFunction036(PVOID, ULONG); /* RtlGenRandom */

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE where, SIZE_T left)
{
    while (left) {
        ULONG now = left > MOST ? MOST : (ULONG)left;
        if (!SystemFunction036(where, now))
            return FALSE;
        where += now;
        left -= now;
    }
    return TRUE;
}
