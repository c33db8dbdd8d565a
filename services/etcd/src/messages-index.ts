/** The protocol's messages, for who speaks it as a client. */
export * from './messages.js'
export { type In, Message, type Out, ProtobufError } from './protobuf.js'
