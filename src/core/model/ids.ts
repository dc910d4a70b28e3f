/** Lower-case `app.app-ns.service.service-ns`. */
export type ServiceId = string

/** `<service id>.<ordinal>`, for example `shop.acme.cart.prod.0`. */
export type InstanceId = string

/** `<cluster>/<node>`, for example `edge/n1`; unique in the mesh. */
export type NodeId = string

/** `app.app-ns.service`: what a node asks its cluster for. It covers every service of that name in the app. */
export type InterestKey = string

export function serviceId(parts: {
  app: string
  appNamespace: string
  service: string
  serviceNamespace: string
}): ServiceId {
  return `${parts.app}.${parts.appNamespace}.${parts.service}.${parts.serviceNamespace}`.toLowerCase()
}

export function instanceId(service: ServiceId, ordinal: number): InstanceId {
  return `${service}.${ordinal}`
}

export function interestKey(parts: { app: string; appNamespace: string; service: string }): InterestKey {
  return `${parts.app}.${parts.appNamespace}.${parts.service}`.toLowerCase()
}

export function interestOf(service: ServiceId): InterestKey {
  return service.slice(0, service.lastIndexOf('.'))
}

/** The service and ordinal of an instance id; `undefined` when it is not one. */
export function splitInstanceId(id: InstanceId): { service: ServiceId; ordinal: number } | undefined {
  const match = /^([a-z0-9-]+(?:\.[a-z0-9-]+){3})\.(\d{1,6})$/.exec(id)
  return match === null ? undefined : { service: match[1] as string, ordinal: Number(match[2]) }
}

export function clusterOf(node: NodeId): string {
  return node.slice(0, node.indexOf('/'))
}
