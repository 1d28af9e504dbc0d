/* python.exe: what the real one does, in the words of its own library. */
#include <windows.h>

typedef int (*Main)(int, wchar_t **);

int wmain(int count, wchar_t **words)
{
    HMODULE library = LoadLibraryW(PYTHON_DLL);
    return library ? ((Main)(void *)GetProcAddress(library, "Py_Main"))(count, words) : 99;
}
