"""The language server: the editor's protocol in, pure functions over texts, values out.

The only module that knows pygls. Lines and columns are the editor's, offsets are ours. What takes time runs
beside the server's thread, checks in one and answers in another, so no answer waits for a check; of several
texts that wait to be checked only the newest is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from lsprotocol import types as lsp
from pygls.exceptions import JsonRpcInvalidParams
from pygls.lsp.server import LanguageServer
from pygls.uris import to_fs_path

from ...ir import Diagnostic, Label, Plan, PlanError, Severity
from .companion import find_companion, read_companion
from .completion import complete
from .features import check, format_edit, rename_device, renamed_word
from .fixes import fixes
from .hovering import hover
from .lenses import lenses
from .positions import Positions

if TYPE_CHECKING:
    from .shapes import Edit

_T = TypeVar("_T")
_CHECKS: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="check")
_ANSWERS: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="answer")
_KINDS: Final = {
    "keyword": lsp.CompletionItemKind.Keyword,
    "module": lsp.CompletionItemKind.Module,
    "tensor": lsp.CompletionItemKind.Field,
    "class": lsp.CompletionItemKind.Class,
    "device": lsp.CompletionItemKind.EnumMember,
    "purpose": lsp.CompletionItemKind.Value,
}


class _Text:
    """One open text, its model, and its places as the editor counts them."""

    def __init__(self, server: LanguageServer, uri: str) -> None:
        document = server.workspace.get_text_document(uri)
        encoding = server.workspace.position_encoding or lsp.PositionEncodingKind.Utf16
        self.uri = uri
        self.path = Path(to_fs_path(uri) or document.path)
        self.text: str = document.source.replace("\r\n", "\n")
        self.positions = Positions(self.text, lsp.PositionEncodingKind(encoding).value)

    @property
    def companion(self) -> Plan | None:
        found = find_companion(self.path, self.text)
        return None if found is None else read_companion(found)

    def offset(self, position: lsp.Position) -> int:
        return self.positions.offset(position.line, position.character)

    def range(self, start: int, end: int) -> lsp.Range:
        return lsp.Range(
            lsp.Position(*self.positions.position(start)), lsp.Position(*self.positions.position(end))
        )

    def edit(self, edit: Edit) -> lsp.TextEdit:
        return lsp.TextEdit(self.range(edit.start, edit.end), edit.text)

    def check(self) -> tuple[Diagnostic, ...]:
        return check(self.text, str(self.path), self.companion)

    def owns(self, label: Label) -> bool:
        return label.span.source.text == self.text

    def diagnostic(self, found: Diagnostic) -> lsp.Diagnostic:
        """Return a finding as the editor shows it; one without a place stands on the first line."""
        start, end = 0, len(self.text.split("\n", 1)[0])
        if found.at is not None and self.owns(found.at):
            start, end = found.at.span.start, found.at.span.end
        lines = [found.message, *(f"note: {note}" for note in found.notes)]
        lines += [f"help: {found.help}"] if found.help else []
        related = [
            lsp.DiagnosticRelatedInformation(
                lsp.Location(self.uri, self.range(label.span.start, label.span.end)), label.text
            )
            for label in found.also
            if self.owns(label)
        ]
        return lsp.Diagnostic(
            range=self.range(start, end),
            message="\n".join(lines),
            severity=lsp.DiagnosticSeverity.Error
            if found.severity is Severity.ERROR
            else lsp.DiagnosticSeverity.Warning,
            code=found.code,
            source="compile-plan",
            related_information=related or None,
        )


def make_server() -> LanguageServer:
    """Return a server that answers for every open .plan text."""
    server = LanguageServer(
        "compile-plan", version("compile-plan"), text_document_sync_kind=lsp.TextDocumentSyncKind.Full
    )
    _register_checks(server)
    _register_questions(server)
    _register_edits(server)
    return server


async def _beside(work: Callable[[], _T], thread: ThreadPoolExecutor = _ANSWERS) -> _T:
    """Do some work beside the server's thread."""
    return await asyncio.get_running_loop().run_in_executor(thread, work)


def _register_checks(server: LanguageServer) -> None:
    newest: dict[str, _Text] = {}

    async def publish(uri: str) -> None:
        text = newest[uri] = _Text(server, uri)
        found = await _beside(lambda: text.check() if newest.get(uri) is text else (), _CHECKS)
        if newest.get(uri) is text:
            shown = [text.diagnostic(each) for each in found]
            server.text_document_publish_diagnostics(lsp.PublishDiagnosticsParams(uri, shown))

    @server.feature(lsp.TEXT_DOCUMENT_DID_OPEN)
    async def opened(params: lsp.DidOpenTextDocumentParams) -> None:
        await publish(params.text_document.uri)

    @server.feature(lsp.TEXT_DOCUMENT_DID_CHANGE)
    async def changed(params: lsp.DidChangeTextDocumentParams) -> None:
        await publish(params.text_document.uri)

    @server.feature(lsp.TEXT_DOCUMENT_DID_SAVE)
    async def saved(_: lsp.DidSaveTextDocumentParams) -> None:
        for uri in list(server.workspace.text_documents):  # another text may be about this one
            await publish(uri)
        if _asks_for_lenses_again(server.client_capabilities):
            server.workspace_code_lens_refresh(None)

    @server.feature(lsp.TEXT_DOCUMENT_DID_CLOSE)
    def closed(params: lsp.DidCloseTextDocumentParams) -> None:
        newest.pop(params.text_document.uri, None)
        server.text_document_publish_diagnostics(lsp.PublishDiagnosticsParams(params.text_document.uri, []))


def _asks_for_lenses_again(client: lsp.ClientCapabilities) -> bool:
    about = client.workspace and client.workspace.code_lens
    return bool(about and about.refresh_support)


def _register_questions(server: LanguageServer) -> None:
    @server.feature(lsp.TEXT_DOCUMENT_COMPLETION, lsp.CompletionOptions(trigger_characters=[".", " "]))
    async def completion(params: lsp.CompletionParams) -> list[lsp.CompletionItem]:
        text = _Text(server, params.text_document.uri)
        offset = text.offset(params.position)
        found = await _beside(lambda: complete(text.text, offset, text.companion))
        return [
            lsp.CompletionItem(
                label=each.edit.text,
                kind=_KINDS[each.kind],
                detail=each.detail or None,
                text_edit=text.edit(each.edit),
                sort_text=f"{rank:04}",
            )
            for rank, each in enumerate(found)
        ]

    @server.feature(lsp.TEXT_DOCUMENT_HOVER)
    async def hovered(params: lsp.HoverParams) -> lsp.Hover | None:
        text = _Text(server, params.text_document.uri)
        offset = text.offset(params.position)
        found = await _beside(lambda: hover(text.text, offset, text.companion))
        if found is None:
            return None
        shown = lsp.MarkupContent(lsp.MarkupKind.Markdown, found.text)
        return lsp.Hover(shown, text.range(found.start, found.end))

    @server.feature(lsp.TEXT_DOCUMENT_CODE_LENS, lsp.CodeLensOptions(resolve_provider=False))
    async def shown_above(params: lsp.CodeLensParams) -> list[lsp.CodeLens]:
        text = _Text(server, params.text_document.uri)
        found = await _beside(lambda: lenses(text.text, text.companion))
        # A command without a name is shown as words and cannot be clicked.
        return [lsp.CodeLens(text.range(each.start, each.end), lsp.Command(each.title, "")) for each in found]


def _register_edits(server: LanguageServer) -> None:
    @server.feature(lsp.TEXT_DOCUMENT_FORMATTING)
    async def formatted(params: lsp.DocumentFormattingParams) -> list[lsp.TextEdit]:
        text = _Text(server, params.text_document.uri)
        edit = await _beside(lambda: format_edit(text.text))
        return [] if edit is None else [text.edit(edit)]

    @server.feature(lsp.TEXT_DOCUMENT_PREPARE_RENAME)
    def prepare_rename(params: lsp.PrepareRenameParams) -> lsp.Range | None:
        text = _Text(server, params.text_document.uri)
        word = renamed_word(text.text, text.offset(params.position))
        return None if word is None else text.range(word.start, word.end)

    @server.feature(lsp.TEXT_DOCUMENT_RENAME, lsp.RenameOptions(prepare_provider=True))
    def renamed(params: lsp.RenameParams) -> lsp.WorkspaceEdit:
        text = _Text(server, params.text_document.uri)
        try:
            edits = rename_device(text.text, text.offset(params.position), params.new_name)
        except PlanError as error:
            raise JsonRpcInvalidParams(error.diagnostics[0].message) from None
        return lsp.WorkspaceEdit(changes={text.uri: [text.edit(each) for each in edits]})

    @server.feature(
        lsp.TEXT_DOCUMENT_CODE_ACTION, lsp.CodeActionOptions(code_action_kinds=[lsp.CodeActionKind.QuickFix])
    )
    async def actions(params: lsp.CodeActionParams) -> list[lsp.CodeAction]:
        text = _Text(server, params.text_document.uri)
        first, last = params.range.start.line, params.range.end.line
        found: list[lsp.CodeAction] = []
        for each in await _beside(text.check):
            shown = text.diagnostic(each)
            if shown.range.end.line < first or shown.range.start.line > last:
                continue
            for fix in fixes(text.text, each):
                edit = lsp.WorkspaceEdit(changes={text.uri: [text.edit(part) for part in fix.edits]})
                found.append(lsp.CodeAction(fix.title, lsp.CodeActionKind.QuickFix, [shown], edit=edit))
        return found
