/* The assembler copies the file in; it finds it through the include path (-I of the source
 * folder), which is why the build tells it that this object depends on the page. */
#include "daemon/web.h"

__asm__(".pushsection .rodata\n"
        ".global pg_web_page\n"
        "pg_web_page:\n"
        ".incbin \"daemon/web/index.html\"\n"
        ".global pg_web_page_end\n"
        "pg_web_page_end:\n"
        ".byte 0\n"
        ".popsection\n");
