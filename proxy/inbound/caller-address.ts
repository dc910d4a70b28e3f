import { holdsVip, vipToIPv4, type VipRange } from '../../src/core/model/address.ts'
import { type InstanceId, splitInstanceId } from '../../src/core/model/ids.ts'
import type { TableView } from '../../src/core/table/view.ts'

/**
 * The address an instance is dialled from when another instance calls it, so that `getpeername` and PTR tell who calls:
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
