"""
Static membership: what becomes of two processes under one name.

The broker gives the partitions of a name (`group.instance.id`) to whoever joined under it last. aiokafka does not ask
whether that was somebody else: it joins anew, takes them back, and so does the other one, every two seconds for ever.
"""

import time
from typing import Any

import aiokafka.consumer.consumer
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import GroupCoordinatorNotAvailableError, UnknownMemberIdError
from aiokafka.protocol.group import JoinGroupRequest

from infra.logs import get_logger
from infra.refusal import refuse
from schemas.errors import ConfigurationError

log = get_logger()

# FENCED_INSTANCE_ID: this name belongs to another member. aiokafka has no error for it.
_FENCED = 82
_UNKNOWN: int = UnknownMemberIdError.errno

# The first time may be an echo of our own: a join that a frozen broker takes up after we had made it again. Two that
# live throw each other out within seconds.
AGAIN_S_MAX = 60.0


class StaticMember(GroupCoordinator):  # type: ignore[misc]  # aiokafka has no types
    """
    aiokafka's coordinator, but a static member that is unknown to the broker asks why before it joins anew.

    It joins under the member id that it had. The broker answers that it is unknown when its session has ended: then it
    takes a new one, as ever. It answers that it is fenced when another process has its name: the second time within
    AGAIN_S_MAX the service ends and says so, and the other one is left in peace.
    """

    member_id: str
    _fenced_at_s = float("-inf")

    def reset_generation(self) -> None:
        """Give up the place in the group, and join again."""
        member_id = self.member_id
        super().reset_generation()
        if self._group_instance_id is not None:
            self.member_id = member_id

    async def _do_heartbeat(self) -> Any:
        # With the member id kept, the library would go on to ask for a place that was given up.
        return True if self.generation < 0 else await super()._do_heartbeat()

    async def _send_req(self, request: Any) -> Any:
        response = await super()._send_req(request)
        code = getattr(response, "error_code", 0)
        if code == _FENCED:
            await self._fenced()
            response.error_code = code = _UNKNOWN
        if code == _UNKNOWN and self._group_instance_id is not None and isinstance(request, JoinGroupRequest):
            self.member_id = JoinGroupRequest.UNKNOWN_MEMBER_ID
        return response

    async def _fenced(self) -> None:
        now_s = time.monotonic()
        since_s, self._fenced_at_s = now_s - self._fenced_at_s, now_s
        log.error("instance_name_taken", group=self.group_id, name=self._group_instance_id)
        if since_s > AGAIN_S_MAX:
            return
        refuse(
            ConfigurationError(
                f"RELEVO_INSTANCE: another process joins group {self.group_id} under the same name, "
                f"{self._group_instance_id}. Give each process of a service a name of its own, or none"
            )
        )
        # To join again would throw the other one out again.
        await self._closing
        raise GroupCoordinatorNotAvailableError


def install() -> None:
    """Have every consumer of this process, those of Faust too, use it; aiokafka has no other way to."""
    aiokafka.consumer.consumer.GroupCoordinator = StaticMember
