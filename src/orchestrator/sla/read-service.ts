import type { AppSpec, ServiceSpec } from '../spec.ts'
import type { Fields } from './fields.ts'

/** A service, the object it was read from, and its app. */
export interface ReadService {
  fields: Fields
  app: AppSpec
  service: ServiceSpec
  /** `microserviceID`, if the document gives one. */
  givenId: string | undefined
}
