"""Traces: pages of episodes, one episode, its turns, its replay; what judges say of episodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response

from app import db, replay
from app.models import Episode, TurnRow
from app.problems import problems
from app.records import Message, TextPart
from app.schemas import PLAIN, EpisodeOut, ScoredList, ScoredOut, ScoresIn, TracePage, TurnOut, TurnPage
from app.store import jobs, scores, traces
from app.store.paging import MOST_ROWS
from app.store.turns import message_json

router = APIRouter(tags=["traces"])


def _out(episode: Episode, job_names: Mapping[str, str | None]) -> EpisodeOut:
    fields = {name: getattr(episode, name) for name in EpisodeOut.model_fields if name != "job_name"}
    return EpisodeOut.model_validate({**fields, "job_name": job_names.get(episode.job_id)})


@router.get("/v1/traces", response_model=TracePage, responses=problems(404, 409))
def list_traces(
    job: Annotated[str | None, Query(max_length=100, description="as in /v1/jobs/{ref}")] = None,
    seed: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
    policy: Annotated[str | None, Query(max_length=200, pattern=PLAIN)] = None,
    min_unlocked: Annotated[int | None, Query(ge=0, le=10_000, description="at least so many achievements")] = None,
    state: Annotated[Literal["running", "done", "failed"] | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 50,
    after: Annotated[str | None, Query(max_length=500, description="next_cursor of the page before")] = None,
) -> Any:
    """Traces without their turns, newest first."""
    with db.reading() as session:
        found, cursor = traces.page(
            session,
            job_id=jobs.find(session, job).id if job is not None else None,
            seed=seed,
            policy=policy,
            min_unlocked=min_unlocked,
            state=state,
            limit=limit,
            after=after,
        )
        names = traces.job_names(session, found)
        data = [_out(episode, names) for episode in found]
    return TracePage(data=data, has_more=cursor is not None, next_cursor=cursor)


@router.get("/v1/traces/{id}", response_model=EpisodeOut, responses=problems(404, 409))
def get_trace(id: str) -> Any:
    """One trace without its turns, by id or unique start of an id."""
    with db.reading() as session:
        episode = traces.find(session, id)
        return _out(episode, traces.job_names(session, [episode]))


@router.get("/v1/traces/{id}/turns", response_model=TurnPage, responses=problems(404, 409))
def list_turns(
    id: str,
    after: Annotated[int, Query(ge=-1, le=2**31 - 1, description="index of the last turn that is known")] = -1,
    limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 100,
) -> Any:
    """The trace's turns in order, each with its whole prompt."""
    with db.reading() as session:
        rows = traces.turns(session, traces.find(session, id).id, after=after, limit=limit + 1)
        texts = traces.texts(session, (row.system for row in rows))
    return TurnPage(data=[_turn(row, texts) for row in rows[:limit]], has_more=len(rows) > limit)


def _turn(row: TurnRow, texts: Mapping[str, str]) -> TurnOut:
    system = [message_json(Message(role="system", parts=(TextPart(text=texts[row.system]),)))] if row.system else []
    fields = {name: getattr(row, name) for name in TurnOut.model_fields}
    return TurnOut.model_validate({**fields, "messages": [*system, *row.messages]})


@router.post("/v1/scores", response_model=ScoredList, responses=problems(413))
def attach_scores(body: ScoresIn) -> Any:
    """Give episodes the scores of judges, all or none. Scores of judges that are not named stay; answers with all scores."""
    with db.writing() as session:
        found = scores.attach(session, [(item.episode, item.scores) for item in body.data])
        return ScoredList(data=[ScoredOut(episode=episode.id, scores=episode.scores or {}) for episode in found])


@router.get(
    "/v1/traces/{id}/replay",
    response_class=Response,
    responses={**problems(404, 409), 200: {"description": "a picture", "content": {"image/gif": {}, "image/png": {}}}},
)
def replay_trace(
    id: str,
    format: Annotated[Literal["gif", "png"], Query(description="gif: it moves; png: one sheet")] = "gif",
    scale: Annotated[int, Query(ge=1, le=16, description="screen pixels for a frame's pixel")] = 4,
    fps: Annotated[int, Query(ge=1, le=50, description="turns a second in a gif")] = 8,
    max_turns: Annotated[int | None, Query(ge=1, le=2000, description="most turns that are shown")] = None,
) -> Response:
    """The trace as pictures."""
    with db.reading() as session:
        episode_id = traces.find(session, id).id
        picture = replay.render(session, episode_id, format=format, scale=scale, fps=fps, max_turns=max_turns)
    return Response(picture, media_type=f"image/{format}", headers={"Cache-Control": "no-cache"})
