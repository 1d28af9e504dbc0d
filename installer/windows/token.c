/*
 * msiexec ... TOKEN=... : the token goes from the installer's memory into a file that administrators and the system may
 * read, where `outhaul-agent service setup install` takes it from, and deletes it. It is in no log, registry or command
 * line of ours; that msiexec's own command line has it is the caller's choice, who may give TOKENFILE instead.
 */
#include <windows.h>
#include <msiquery.h>
#include <sddl.h>

#define LONGEST 65536
#define FOLDER L"\\Outhaul"
#define FILE_NAME L"\\install-token" /* agent/service/windows_setup.py has the same name */
#define FOR_ADMINISTRATORS L"D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)"

static BOOL place(WCHAR *path, const WCHAR *end)
{
    DWORD length = GetEnvironmentVariableW(L"ProgramData", path, MAX_PATH);
    if (!length || length > MAX_PATH - 32)
        return FALSE;
    lstrcatW(path, FOLDER);
    lstrcatW(path, end);
    return TRUE;
}

static BOOL write_guarded(const char *text, DWORD bytes)
{
    WCHAR path[MAX_PATH];
    SECURITY_ATTRIBUTES guard = {sizeof guard, NULL, FALSE};
    HANDLE file;
    DWORD written = 0;
    BOOL done;

    if (!ConvertStringSecurityDescriptorToSecurityDescriptorW(FOR_ADMINISTRATORS, SDDL_REVISION_1,
                                                              &guard.lpSecurityDescriptor, NULL))
        return FALSE;
    if (place(path, L""))
        CreateDirectoryW(path, &guard); /* it may be there */
    if (!place(path, FILE_NAME))
        return FALSE;
    DeleteFileW(path); /* one that is there may have other rights */
    file = CreateFileW(path, GENERIC_WRITE, 0, &guard, CREATE_NEW, FILE_ATTRIBUTE_NORMAL, NULL);
    LocalFree(guard.lpSecurityDescriptor);
    if (file == INVALID_HANDLE_VALUE)
        return FALSE;
    done = WriteFile(file, text, bytes, &written, NULL) && written == bytes;
    CloseHandle(file);
    return done;
}

__declspec(dllexport) UINT __stdcall KeepToken(MSIHANDLE install)
{
    static WCHAR token[LONGEST];
    static char text[LONGEST];
    DWORD length = LONGEST;
    int bytes;
    BOOL done;

    if (MsiGetPropertyW(install, L"CustomActionData", token, &length) != ERROR_SUCCESS)
        return ERROR_INSTALL_FAILURE;
    bytes = WideCharToMultiByte(CP_UTF8, 0, token, (int)length, text, LONGEST, NULL, NULL);
    done = bytes > 0 && write_guarded(text, (DWORD)bytes);
    SecureZeroMemory(token, sizeof token);
    SecureZeroMemory(text, sizeof text);
    return done ? ERROR_SUCCESS : ERROR_INSTALL_FAILURE;
}

__declspec(dllexport) UINT __stdcall ForgetToken(MSIHANDLE install)
{
    WCHAR path[MAX_PATH];
    (void)install;
    if (place(path, FILE_NAME))
        DeleteFileW(path);
    return ERROR_SUCCESS;
}
