# SPDX-License-Identifier: Apache-2.0
"""What a client trusts: the usual authorities, or the one of a test."""

import ssl


def context(authority: str | None) -> ssl.SSLContext | bool:
    if authority is None:
        return True
    context = ssl.create_default_context(cafile=authority)
    # From 3.13 on, Python wants extensions that the certificates of tests do not have.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
