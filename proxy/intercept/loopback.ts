import { vipRange } from '../../src/core/model/address.ts'
import type { Identify, InterceptParts } from './interceptor.ts'
import { VipListeners, type VipListenersOptions } from './vip-listeners.ts'

/** The prefix of the first agent on a machine; its VIPs read 127.30.a.b. */
export const LOOPBACK_CIDR = '127.16.0.0/12'

/** `loopback` mode: 127.0.0.0/8 is local on Linux, so it needs no set-up and no rights. */
export const LoopbackInterceptor = {
  start(
    options: Partial<Omit<VipListenersOptions, 'mode'>>,
    identify: Identify,
    parts: InterceptParts,
  ): Promise<VipListeners> {
    return VipListeners.start({ range: vipRange(LOOPBACK_CIDR), ...options, mode: 'loopback' }, identify, parts)
  },
}
