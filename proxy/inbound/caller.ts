import { encodeProxyHeader } from '../../src/core/kit/proxy-header.ts'
import { holdsVip, vipToIPv4, type VipRange } from '../../src/core/model/address.ts'
import { instanceId, type InstanceId, type NodeId, splitInstanceId } from '../../src/core/model/ids.ts'
import type { TableView } from '../../src/core/table/view.ts'
import { callerText } from '../flow/flow.ts'
import type { FlowRequest } from '../flow/request.ts'

/**
 * The address an instance is dialled from when another instance calls it, so that `getpeername` and PTR name the caller:
 * the VIP of the caller's own `<ordinal>.pinned` name. `undefined` when it has none in this range.
 */
export function callerAddress(table: TableView, range: VipRange): (caller: InstanceId) => string | undefined {
  return (caller) => {
    const parts = splitInstanceId(caller)
    if (parts === undefined) return undefined
    const vip = table.entry(parts.service)?.service.vips[`${parts.ordinal}.pinned`]
    return vip === undefined || !holdsVip(range, vip) ? undefined : vipToIPv4(range, vip)
  }
}

/**
 * The PROXY header that introduces a caller to an instance before its first byte, where the SLA asks for one
 * (`proxyProtocol: v2`):
 *
 *   source        the caller's address (the VIP of its `<ordinal>.pinned` name here) and the port we dial from
 *   destination   the instance's own VIP of that kind, and the port that was called
 *   0x05          PP2_TYPE_UNIQUE_ID: the flow's id, as in the logs of both nodes
 *   0xE0          who calls: `app.ns.service.ns.<ordinal>`, or the node's id when it is a host process
 *   0xE1          the node that authenticated the caller, as the URI of its certificate
 *
 * For a caller without an address here (a host process) the header is LOCAL: the addresses are those of the connection. What
 * the caller itself sends is never read: a header of its own is part of its bytes.
 */
export interface Introductions {
  /** The address under which an instance is known on this node. */
  readonly addressOf: (instance: InstanceId) => string | undefined
  /** `spiffe://<mesh>/cluster/<cluster>/node/<node>` */
  readonly uriOf: (node: NodeId) => string
}

const UNIQUE_ID = 0x05
const CALLER = 0xe0
const NODE = 0xe1

/** The PROXY header for one flow; `peer`: the node it came from. */
export function introduce(
  request: FlowRequest,
  { peer, localPort }: { peer: NodeId; localPort: number },
  { addressOf, uriOf }: Introductions,
): Buffer {
  const { caller, port } = request
  const from = caller.kind === 'instance' ? addressOf(caller.id) : undefined
  const to = addressOf(instanceId(request.service, request.ordinal))
  const isKnown = from !== undefined && to !== undefined
  return encodeProxyHeader({
    ...(isKnown ? { ends: { from: { address: from, port: localPort }, to: { address: to, port } } } : {}),
    values: [
      [UNIQUE_ID, request.flow],
      [CALLER, callerText(caller, peer)],
      [NODE, uriOf(peer)],
    ],
  })
}
