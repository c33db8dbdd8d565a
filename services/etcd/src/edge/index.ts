export { type EtcdDoor, type EtcdDoorOptions, openEtcdDoor } from './door.js'
